"""Owns random crops: all aligned arrays of an example are cut and flipped alike."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Protocol

import numpy as np

from cdd.core.errors import UserError
from cdd.core.words import quoted
from cdd.data.images import Unreadable
from cdd.data.skips import Skips, TooSmall

SCALES = (1200, 800, 533, 356, 237)  # Long sides in pixels.
FLAT = 14.0  # A crop whose channels' standard deviation is below this, of 255, counts as flat.
TRIES = 10
DRAWS = 1000  # Examples in a row that cannot be used, before one that can is given up.
LARGEST = 2**16  # Pixels of a side.
REMEMBERED = 100_000  # Examples that a process knows it cannot use.


class Whole(Protocol):
  """An example that is larger than a crop of it, such as a photograph with its depth.

  Its name is there at once; all else may be read only now, and raise `Unreadable`.

  Attributes:
    name: what messages call it.
    caption: its text, or several, one of which is drawn.
    original: its (width, height).
    sizes: (width, height) at which it is read, the largest first.
  """

  name: str
  caption: str | Sequence[str]
  original: tuple[int, int]
  sizes: Sequence[tuple[int, int]]

  def arrays(self, size: tuple[int, int]) -> Mapping[str, np.ndarray]:
    """name -> [height, width, ...], all aligned; `image` is uint8 [height, width, 3]."""


def sides(size: int | Sequence[int]) -> tuple[int, int]:
  """(height, width) of a size, which is one side or both."""
  height, width = size if isinstance(size, list | tuple) else (size, size)
  return int(height), int(width)


def spelled(size: int | Sequence[int]) -> str:
  """'64', or '64x48' of (48, 64)."""
  tall, wide = sides(size)
  return f'{wide}' if tall == wide else f'{wide}x{tall}'


def several(size) -> bool:
  """Whether a size lists several, each a (height, width)."""
  return isinstance(size, list | tuple) and any(isinstance(each, list | tuple) for each in size)


def sizes(width: int, height: int, crop: int | Sequence[int]) -> list[tuple[int, int]]:
  """The sizes of an image that leave room for a crop, the largest first.

  Args:
    crop: its side, or its (height, width).

  Raises:
    TooSmall: there is none.
  """
  tall, wide = sides(crop)
  longest, levels = max(width, height), []
  for side in (longest, *SCALES):
    scaled = tuple(round(n * (side / longest)) for n in (width, height))
    fits = side <= longest and scaled[0] >= wide and scaled[1] >= tall
    if fits and (not levels or levels[-1][1] > 1.2 * scaled[1]):
      levels.append(scaled)
  if not levels:
    raise TooSmall(width, height, spelled(crop))
  return levels


def check(*, size, seed, length) -> None:
  """Checks the settings of `RandomCrops`.

  Raises:
    UserError: one of them is out of range, or no whole number.
  """
  check_size(size)
  for name, value, least in (('seed', seed, 0), ('length', length, 1)):
    if not whole(value, least):
      raise UserError(
        f'The {name} of a data source is {value!r}; it must be a whole number, {least} or more.'
      )


def check_size(size) -> None:
  """Checks that a size is one side, or (height, width).

  Raises:
    UserError: it is neither, or lists several.
  """
  if several(size):
    raise UserError(
      f'The size of a data source is {size}; only image_folder takes several sizes, in a local '
      'folder. Give one, or the examples that python -m cdd.prepare made of such a folder.'
    )
  pair = isinstance(size, list | tuple) and len(size) == 2
  each = [*size] if pair else [size]
  if not all(whole(value, 1) for value in each):
    raise UserError(
      f'The size of a data source is {size!r}; it must be a whole number, 1 or more, or '
      '(height, width).'
    )
  if max(each) > LARGEST:
    raise UserError(f'The size of a data source is {size}; it must be at most {LARGEST} pixels.')


def whole(value, least: int) -> bool:
  """Whether a value is a whole number of at least `least`."""
  return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def one_of(caption: str | Sequence[str], rng: np.random.Generator) -> str:
  """A caption, or one of several; a single one draws nothing."""
  return caption if isinstance(caption, str) else caption[int(rng.integers(len(caption)))]


def crop(
  arrays: Mapping[str, np.ndarray], top: int, left: int, size: tuple[int, int]
) -> dict[str, np.ndarray]:
  """The same rectangle of every array; `size` is its (height, width)."""
  height, width = size
  return {name: a[top : top + height, left : left + width] for name, a in arrays.items()}


def flip(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Every array mirrored left to right."""
  return {name: a[:, ::-1] for name, a in arrays.items()}


def pictures(source, count: int) -> int:
  """Of how many different pictures the first `count` examples of a source are, damage aside.

  A source that does not say it, as `RandomCrops.pictures` does, has a picture for each example.
  """
  return source.pictures(count) if hasattr(source, 'pictures') else count


class RandomCrops:
  """Endless crops of whole examples; `[i]` depends on the examples, the seed and i alone.

  Examples that cannot be used are passed over.
  """

  def __init__(
    self,
    examples: Sequence[Whole],
    *,
    size,
    seed,
    length,
    label,
    flip=True,
    max_skipped=1.0,
    skipped=(),
  ):
    """Checks what is asked.

    Args:
      size: the side of a crop, or its (height, width).
      length: how many crops there are.
      label: what messages call the source.
      flip: mirrors half of the crops.
      max_skipped: the share of damaged examples among those drawn that is borne.
      skipped: name -> why, of what is known not to be usable, and is not among the examples.

    Raises:
      UserError: one of the numbers is out of range.
    """
    check(size=size, seed=seed, length=length)
    self._examples, self._size = examples, sides(size)
    self._seed, self._length, self._label, self._flip = seed, length, label, flip
    self._skips = Skips(label, max_skipped, skipped)
    self._bad = {}  # Number of an example that is not read again -> what `Skips.add` takes.

  @property
  def skipped(self) -> dict[str, str]:
    """Name -> why, of the examples that could not be used, as far as this process has seen."""
    return self._skips.reasons

  def list_skipped(self, path: Path) -> None:
    """Lists what is damaged in a file (`skips.Listing`), in worker processes too."""
    self._skips.list_in(path)

  def pictures(self, count: int) -> int:
    """Of how many different pictures the first `count` crops are, if none of them is damaged."""
    firsts = (np.random.default_rng((self._seed, index)) for index in range(count))
    return len({int(rng.integers(len(self._examples))) for rng in firsts})

  def __len__(self):
    return self._length

  def __getitem__(self, index):
    """An example: aligned crops, the uint8 ones as float32 in 0..1, the caption, and the sizes.

    The sizes are those that SDXL reads (`types.Text`). The crop's corner is one of the picture as
    it was read, reduced and mirrored, as diffusers' training counts it.

    Raises:
      IndexError: the index is beyond the length.
      UserError: no example can be used, or too many are damaged.
    """
    index = int(index)
    if not 0 <= index < self._length:
      raise IndexError(f'Crop {index} is out of range; choose one of 0..{self._length - 1}.')
    for draw in range(DRAWS):
      # Of its own each time: what is known not to be usable is not read again.
      rng = np.random.default_rng((self._seed, index, draw) if draw else (self._seed, index))
      number = int(rng.integers(len(self._examples)))
      if number in self._bad:
        self._skips.again(*self._bad[number])
      else:
        chosen = self._examples[number]
        try:
          arrays, caption = self._structured_crop(chosen, rng), one_of(chosen.caption, rng)
        except Unreadable as error:  # The header may have been sound; another takes its place.
          self._skip(number, chosen.name, str(error), isinstance(error, TooSmall))
        else:
          self._skips.used()
          return dict({name: as_float(a) for name, a in arrays.items()}, caption=caption)
      if len(self._bad) == len(self._examples):
        break
    name, reason = next(reversed(self.skipped.items()))
    raise UserError(f'No example of {self} can be used, {quoted(name)} being the last: {reason}.')

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
    tall, wide = self._size
    top = int(rng.integers(height - tall + 1))
    left = int(rng.integers(width - wide + 1))
    arrays = crop(arrays, top, left, self._size)
    if self._flip and rng.random() < 0.5:
      arrays, left = flip(arrays), width - left - wide
    original = chosen.original[::-1]
    return dict(arrays, sizes=np.float32([*original, top, left, tall, wide]))

  def _skip(self, number: int, *why):
    if len(self._bad) < REMEMBERED:
      self._bad[number] = why
    self._skips.add(*why)

  def __repr__(self):
    return self._label


def as_float(array: np.ndarray) -> np.ndarray:
  """uint8 as float32 in 0..1; anything else as it is."""
  return array.astype(np.float32) / 255 if array.dtype == np.uint8 else array
