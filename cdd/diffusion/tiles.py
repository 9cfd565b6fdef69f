"""Owns tiles: a function of small latents applied to large ones, the parts blended smoothly.

At every step of a sampler the prediction of a large image is the weighted mean of the predictions
of overlapping tiles (MultiDiffusion: Bar-Tal et al., 2023, Eq. 5), with weights that fall towards a
tile's edge (Mixture of Diffusers: Jiménez, 2023).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdd.errors import UserError


class Tiling(NamedTuple):
  """Where the tiles of a grid [h, w] lie.

  Attributes:
    starts: int32 [n, 2], the first row and column of each tile.
    weights: float32 [n, tile height, tile width]; at every place of the grid they add up to 1.
    grid: (h, w).
  """

  starts: np.ndarray
  weights: np.ndarray
  grid: tuple[int, int]


def tiling(grid: tuple[int, int], *, tile: int, overlap: int) -> Tiling:
  """The fewest tiles that cover a grid, evenly spread, with raised-cosine weights.

  Args:
    grid: rows and columns.
    tile: the side of a tile; a grid that is smaller gets tiles that are.
    overlap: neighbours share at least so much.

  Raises:
    UserError: the overlap is not in 0 .. tile − 1.
  """
  if not 0 <= overlap < tile:
    raise UserError(f'Tiles of {tile} cannot overlap by {overlap}; choose 0..{tile - 1}.')
  sides = [min(tile, length) for length in grid]
  rows, columns = (_starts(*pair, overlap) for pair in zip(grid, sides, strict=True))
  starts = np.array([(row, column) for row in rows for column in columns], np.int32)
  bump = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in sides))
  total = np.zeros(grid)
  places = [np.s_[i : i + sides[0], j : j + sides[1]] for i, j in starts]
  for place in places:
    total[place] += bump
  weights = np.stack([bump / total[place] for place in places])
  return Tiling(starts, weights.astype(np.float32), tuple(grid))


def _starts(length: int, side: int, overlap: int) -> np.ndarray:
  count = math.ceil((length - side) / max(side - overlap, 1)) + 1
  return np.linspace(0, length - side, count).round().astype(int)


def crop(array: jax.Array, start: jax.Array, tiling: Tiling) -> jax.Array:
  """A tile of an array [b, k h, k w, c], which has k pixels to a place of the grid."""
  k = array.shape[1] // tiling.grid[0]
  height, width = (k * side for side in tiling.weights.shape[1:])
  b, _, _, c = array.shape
  return jax.lax.dynamic_slice(array, (0, k * start[0], k * start[1], 0), (b, height, width, c))


def blended(
  function: Callable[[jax.Array, Any], jax.Array], z: jax.Array, each: Any, tiling: Tiling
) -> jax.Array:
  """The weighted mean of `function(tile of z, leaf of each)` over the tiles, one after another.

  Args:
    function: [b, th, tw, c] -> [b, th, tw, c].
    z: [b, h, w, c].
    each: a tree of arrays [n, ...], one entry per tile, or None.
  """

  def add(total: jax.Array, item) -> tuple[jax.Array, None]:
    start, weights, own = item
    part = weights[None, :, :, None] * function(crop(z, start, tiling), own)
    place = (0, start[0], start[1], 0)
    there = jax.lax.dynamic_slice(total, place, part.shape)
    return jax.lax.dynamic_update_slice(total, there + part, place), None

  items = (jnp.asarray(tiling.starts), jnp.asarray(tiling.weights), each)
  return jax.lax.scan(add, jnp.zeros_like(z), items)[0]
