"""Owns the sizes of a call: what is asked for, what the networks see, and the side of the tiles."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cdd.core.errors import check_multiple


class Sizes(NamedTuple):
  """How large images are made.

  Attributes:
    asked: (height, width) in pixels of the images that are returned.
    made: the same of what the networks make; its lower and right ends are cut off.
    tile: the side of tiles in pixels, or None.
  """

  asked: tuple[int, int]
  made: tuple[int, int]
  tile: int | None


def plan(
  size: tuple[int, int],
  *,
  conditional: bool,
  tile: str | int | None,
  trained: tuple[int, int] | None,
  multiple: int,
  factor: int,
) -> Sizes:
  """The sizes of a call.

  With a condition image any size is made: the condition is padded. Without one the size has to be
  a multiple of what a latent is, as in diffusers.

  Args:
    size: of the images that are asked for.
    conditional: whether there is a condition image.
    tile: `Settings.tile`.
    trained: the size that the U-Net was trained at, or None.
    multiple: what divides the sides of what the U-Net sees, so that it can halve them.
    factor: pixels per latent along a side.

  Raises:
    UserError: the size or the tile is none that the networks can make.
  """
  if tile == 'auto':
    larger = conditional and trained and any(a > b for a, b in zip(size, trained, strict=True))
    tile = max(min(trained) // multiple, 1) * multiple if larger else None
  elif tile is not None:
    check_multiple((tile,), multiple, 'tile')
  if not conditional:
    check_multiple(size, factor, 'size')
    return Sizes(size, size, tile)

  def padded(side: int) -> int:
    unit = factor if tile is not None and side > tile else multiple
    return math.ceil(side / unit) * unit

  return Sizes(size, tuple(map(padded, size)), tile)


def pad(images: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
  """Images [H, W, c] as one array [b, *size, c], mirrored below and to the right.

  Of the ways of padding, and none, this has the lowest error in `python -m benchmarks.large`.
  """
  batch = np.stack(images).astype(np.float32)
  more = [(0, new - old) for new, old in zip(size, batch.shape[1:3], strict=True)]
  return np.pad(batch, ((0, 0), *more, (0, 0)), mode='reflect')


def described(sizes: Sizes, trained: tuple[int, int] | None, tile: str | int | None) -> str:
  """What was done that nobody asked for, in words; '' if nothing was."""
  done = []
  if tile == 'auto' and sizes.tile:
    done.append(
      f'{words(sizes.asked)} pixels are more than the {words(trained)} that the U-Net was trained '
      f'at, so tiles of {sizes.tile} are used (--tile=off, or tile=None, makes it at once)'
    )
  if sizes.made != sizes.asked:
    done.append(
      f'the condition is padded to {words(sizes.made)} pixels and the image cut to '
      f'{words(sizes.asked)}'
    )
  return '; '.join(done)


def words(size: tuple[int, int]) -> str:
  return ' x '.join(map(str, size))
