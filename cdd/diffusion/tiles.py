"""Owns tiles: a function of small latents applied to large ones, the parts blended smoothly.

At every step of a sampler the prediction of a large image is the weighted mean of the predictions
of overlapping tiles (MultiDiffusion: Bar-Tal et al., 2023, Eq. 5), with weights that fall towards a
tile's edge (Mixture of Diffusers: Jiménez, 2023).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdd.core.errors import UserError


class Tiling(NamedTuple):
  """Where the tiles of a grid lie: at every pair of a row and a column.

  Attributes:
    rows, columns: the first row, or column, of the tiles, rising.
    sides: (height, width) of a tile.
    grid: (height, width) of the large array.
  """

  rows: tuple[int, ...]
  columns: tuple[int, ...]
  sides: tuple[int, int]
  grid: tuple[int, int]

  @property
  def starts(self) -> np.ndarray:
    """int32 [n, 2]: the row and the column at which each tile starts."""
    return np.array([(row, column) for row in self.rows for column in self.columns], np.int32)

  def weights(self, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Each tile's weights by row [n, scale · height] and by column, float32.

    Their product falls like a raised cosine towards the tile's edge. A place of the grid has
    `scale` pixels a side; at each pixel the weights of all tiles add up to 1.
    """
    parts = zip((self.rows, self.columns), self.sides, self.grid, strict=True)
    rows, columns = (_shares(starts, side, length, scale) for starts, side, length in parts)
    return np.repeat(rows, len(columns), axis=0), np.tile(columns, (len(rows), 1))


def _shares(starts: Sequence[int], side: int, length: int, scale: int) -> np.ndarray:
  """Along one axis, [starts, scale · side]."""
  bump = np.sin(np.pi * (np.arange(scale * side) + 0.5) / (scale * side)) ** 2
  places = [slice(scale * start, scale * (start + side)) for start in starts]
  total = np.zeros(scale * length)
  for place in places:
    total[place] += bump
  return np.stack([bump / total[place] for place in places]).astype(np.float32)


def tiling(grid: tuple[int, int], *, tile: int, overlap: int) -> Tiling:
  """The fewest tiles that cover a grid, evenly spread.

  Args:
    grid: rows and columns.
    tile: the side of a tile; a grid that is smaller gets tiles that are.
    overlap: neighbours share at least so much.

  Raises:
    UserError: the overlap is not in 0 .. tile − 1.
  """
  if not 0 <= overlap < tile:
    raise UserError(f'Tiles of {tile} cannot overlap by {overlap}; choose 0..{tile - 1}.')
  sides = tuple(min(tile, length) for length in grid)
  rows, columns = (_starts(*pair, overlap) for pair in zip(grid, sides, strict=True))
  return Tiling(rows, columns, sides, tuple(grid))


def _starts(length: int, side: int, overlap: int) -> tuple[int, ...]:
  count = math.ceil((length - side) / max(side - overlap, 1)) + 1
  return tuple(np.linspace(0, length - side, count).round().astype(int).tolist())


def crop(array: jax.Array, start: jax.Array, tiling: Tiling) -> jax.Array:
  """A tile of an array [b, k h, k w, c], which has k pixels to a place of the grid."""
  k = array.shape[1] // tiling.grid[0]
  height, width = (k * side for side in tiling.sides)
  b, _, _, c = array.shape
  return jax.lax.dynamic_slice(array, (0, k * start[0], k * start[1], 0), (b, height, width, c))


def blended(
  function: Callable[[jax.Array, Any], jax.Array], z: jax.Array, each: Any, tiling: Tiling
) -> jax.Array:
  """The weighted mean [b, k h, k w, d] of `function(tile of z, leaf of each)`, tile by tile.

  Args:
    function: [b, th, tw, c] -> [b, k th, k tw, d].
    z: [b, h, w, c].
    each: a tree of arrays [n, ...], one entry per tile, or None.
  """
  starts = jnp.asarray(tiling.starts)

  def part(start, leaf):
    return function(crop(z, start, tiling), leaf)

  one = jax.eval_shape(part, starts[0], jax.tree.map(lambda leaf: leaf[0], each))
  scale = one.shape[1] // tiling.sides[0]

  def add(total: jax.Array, item) -> tuple[jax.Array, None]:
    start, rows, columns, leaf = item
    new = rows[None, :, None, None] * columns[None, None, :, None] * part(start, leaf)
    place = (0, scale * start[0], scale * start[1], 0)
    there = jax.lax.dynamic_slice(total, place, new.shape)
    return jax.lax.dynamic_update_slice(total, there + new, place), None

  height, width = (scale * length for length in tiling.grid)
  total = jnp.zeros((z.shape[0], height, width, one.shape[-1]), one.dtype)
  return jax.lax.scan(add, total, (starts, *map(jnp.asarray, tiling.weights(scale)), each))[0]
