"""Owns random crops: all aligned arrays of an example are cut and flipped alike."""

import logging
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Protocol

import numpy as np

from cdd.core.errors import UserError

SCALES = (1200, 800, 533, 356, 237)  # Long sides in pixels.
FLAT = 14.0  # A crop whose channels' standard deviation is below this, of 255, counts as flat.
TRIES = 10
LARGEST = 2**16  # Pixels of a side.


class TooSmall(ValueError):
  """An example that is smaller than a crop of it; `size` is its (width, height) in pixels."""

  def __init__(self, width: int, height: int, crop: int):
    super().__init__(f'{width}x{height} pixels, smaller than a crop of {crop}')
    self.size = width, height


class Whole(Protocol):
  """An example that is larger than a crop of it, such as a photograph with its depth.

  Attributes:
    name: what messages call it.
    caption: its text, or several, one of which is drawn.
    sizes: (width, height) at which it can be read, the largest first.
    unreadable: the exceptions that reading it may raise where it is damaged.
  """

  name: str
  caption: str | Sequence[str]
  sizes: Sequence[tuple[int, int]]
  unreadable: tuple[type[Exception], ...]

  def arrays(self, size: tuple[int, int]) -> Mapping[str, np.ndarray]:
    """name -> [height, width, ...], all aligned; `image` is uint8 [height, width, 3]."""


def sizes(width: int, height: int, crop: int) -> list[tuple[int, int]]:
  """The sizes of an image that leave room for a crop, the largest first.

  Raises:
    TooSmall: there is none.
  """
  longest, levels = max(width, height), []
  for side in (longest, *SCALES):
    scaled = tuple(round(n * (side / longest)) for n in (width, height))
    fits = side <= longest and min(scaled) >= crop
    if fits and (not levels or levels[-1][1] > 1.2 * scaled[1]):
      levels.append(scaled)
  if not levels:
    raise TooSmall(width, height, crop)
  return levels


def check(*, size, seed, length) -> None:
  """Checks the settings of `RandomCrops`.

  Raises:
    UserError: one of them is out of range, or no whole number.
  """
  for name, value, least in (('size', size, 1), ('seed', seed, 0), ('length', length, 1)):
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
      raise UserError(
        f'The {name} of a data source is {value!r}; it must be a whole number, {least} or more.'
      )
  if size > LARGEST:
    raise UserError(f'The size of a data source is {size}; it must be at most {LARGEST} pixels.')


def one_of(caption: str | Sequence[str], rng: np.random.Generator) -> str:
  """A caption, or one of several; a single one draws nothing."""
  return caption if isinstance(caption, str) else caption[int(rng.integers(len(caption)))]


def crop(arrays: Mapping[str, np.ndarray], top: int, left: int, size: int) -> dict[str, np.ndarray]:
  """The same square of every array."""
  return {name: a[top : top + size, left : left + size] for name, a in arrays.items()}


def flip(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Every array mirrored left to right."""
  return {name: a[:, ::-1] for name, a in arrays.items()}


class RandomCrops:
  """Endless crops of whole examples; `[i]` depends on the examples, the seed and i alone.

  Attributes:
    skipped: names of the examples that could not be read, as far as it has been seen.
  """

  def __init__(self, examples: Sequence[Whole], *, size, seed, length, label, skipped=()):
    """`size`: the side of a crop; `length`: how many there are; `label`: for messages.

    Raises:
      UserError: one of the numbers is out of range.
    """
    check(size=size, seed=seed, length=length)
    self._examples = examples
    self._size, self._seed, self._length, self._label = size, seed, length, label
    self.skipped = list(skipped)

  def __len__(self):
    return self._length

  def __getitem__(self, index):
    """An example: aligned crops, the uint8 ones as float32 in 0..1, the caption, and the sizes.

    The sizes are those that SDXL reads (`types.Text`). The crop's corner is one of the picture as
    it was read, reduced and mirrored, as diffusers' training counts it.

    Raises:
      IndexError: the index is beyond the length.
      UserError: ten examples, one after another, are damaged.
    """
    index = int(index)
    if not 0 <= index < self._length:
      raise IndexError(f'Crop {index} is out of range; choose one of 0..{self._length - 1}.')
    rng = np.random.default_rng((self._seed, index))
    for _ in range(TRIES):
      chosen = self._examples[int(rng.integers(len(self._examples)))]
      try:
        arrays = self._structured_crop(chosen, rng)
      except chosen.unreadable as error:  # The header was sound; another picture takes its place.
        reason = str(error)
        self._skip(chosen.name, reason)
      else:
        crops = {name: as_float(a) for name, a in arrays.items()}
        return dict(crops, caption=one_of(chosen.caption, rng))
    raise UserError(
      f'{TRIES} pictures in a row of {self} are damaged, {chosen.name} the last: {reason}.'
    )

  def _structured_crop(self, chosen: Whole, rng) -> dict[str, np.ndarray]:
    """A crop that is not flat, if there is one; a tenth may be flat, as photographs are."""
    for _ in range(1 if rng.random() < 0.1 else TRIES):
      arrays = self._crop(chosen, rng)
      if arrays['image'].std(axis=(0, 1)).mean() >= FLAT:
        break
    return arrays

  def _crop(self, chosen: Whole, rng) -> dict[str, np.ndarray]:
    arrays = chosen.arrays(chosen.sizes[int(rng.integers(len(chosen.sizes)))])
    height, width = arrays['image'].shape[:2]
    top = int(rng.integers(height - self._size + 1))
    left = int(rng.integers(width - self._size + 1))
    arrays = crop(arrays, top, left, self._size)
    if rng.random() < 0.5:
      arrays, left = flip(arrays), width - left - self._size
    original = chosen.sizes[0][::-1]
    return dict(arrays, sizes=np.float32([*original, top, left, self._size, self._size]))

  def _skip(self, name, reason):
    if name not in self.skipped:
      logging.warning('Skipped %s of %s: %s', name, self, reason)
      self.skipped.append(name)

  def __repr__(self):
    return self._label


def as_float(array: np.ndarray) -> np.ndarray:
  """uint8 as float32 in 0..1; anything else as it is."""
  return array.astype(np.float32) / 255 if array.dtype == np.uint8 else array
