"""Owns random crops of pictures at several scales, decoded when drawn, kept while there is room."""

import logging
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cachetools
import numpy as np
from PIL import ExifTags, Image, ImageOps

from cdd.core.errors import UserError

SCALES = (1200, 800, 533, 356, 237)  # Long sides in pixels.
FLAT = 14.0  # A crop whose channels' standard deviation is below this, of 255, counts as flat.
TRIES = 10
ROOM = 1 << 30  # Bytes of decoded pictures that a process (each worker too) keeps.

# What Pillow raises for a damaged file.
UNREADABLE = (
  OSError,
  ValueError,
  SyntaxError,
  EOFError,
  struct.error,
  Image.DecompressionBombError,
)


class Picture(NamedTuple):
  """An image file that holds at least one crop.

  Attributes:
    sizes: (width, height) of its levels, the largest first; none is larger than the image.
  """

  path: Path
  caption: str
  sizes: list[tuple[int, int]]


def picture(path: Path, caption: str, crop: int) -> Picture:
  """Looks at a file's header alone.

  Raises:
    OSError, ValueError, ...: it is no image (UNREADABLE), or smaller than a crop.
  """
  with Image.open(path) as image:
    # Without an exif block at its head, getexif would decode the whole picture.
    lies = 'exif' in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) > 4
    return Picture(path, caption, sizes(*image.size[:: -1 if lies else 1], crop))


def sizes(width: int, height: int, crop: int) -> list[tuple[int, int]]:
  """The scales of an image that leave room for a crop.

  Raises:
    ValueError: there is none.
  """
  longest, levels = max(width, height), []
  for side in (longest, *SCALES):
    scaled = tuple(round(n * (side / longest)) for n in (width, height))
    fits = side <= longest and min(scaled) >= crop
    if fits and (not levels or levels[-1][1] > 1.2 * scaled[1]):
      levels.append(scaled)
  if not levels:
    raise ValueError(f'{width}x{height} pixels, smaller than a crop of {crop}')
  return levels


@cachetools.cached(cachetools.LRUCache(ROOM, getsizeof=lambda a: a.nbytes), lock=threading.Lock())
def level(path: Path, size: tuple[int, int]) -> np.ndarray:
  """The image at one size (Lanczos), uint8 [height, width, 3]."""
  with Image.open(path) as image:
    upright = ImageOps.exif_transpose(image) if 'exif' in image.info else image
    upright = upright.convert('RGB')
  same = upright.size == size
  return np.asarray(upright if same else upright.resize(size, Image.Resampling.LANCZOS))


class RandomCrops:
  """Endless crops; `[i]` depends on the pictures, the seed and i alone.

  Attributes:
    skipped: names of the files that could not be read, as far as it has been seen.
  """

  def __init__(self, pictures: Sequence[Picture], *, size, seed, length, label, skipped=()):
    self._pictures = pictures
    self._size, self._seed, self._length, self._label = size, seed, length, label
    self.skipped = list(skipped)

  def __len__(self):
    return self._length

  def __getitem__(self, index):
    """An example: a crop, float32 [size, size, 3] in 0..1, and its picture's caption.

    Raises:
      IndexError: the index is beyond the length.
      UserError: ten pictures, one after another, are damaged.
    """
    index = int(index)
    if not 0 <= index < self._length:
      raise IndexError(f'Crop {index} is out of range; choose one of 0..{self._length - 1}.')
    rng = np.random.default_rng((self._seed, index))
    for _ in range(TRIES):
      chosen = self._pictures[int(rng.integers(len(self._pictures)))]
      try:
        crop = self._telling_crop(chosen, rng)
      except UNREADABLE as error:  # The header was sound; another picture takes its place.
        self._skip(chosen.path.name, error)
      else:
        return dict(image=crop.astype(np.float32) / 255, caption=chosen.caption)
    raise UserError(f'{TRIES} pictures in a row of {self} are damaged, {chosen.path} the last.')

  def _telling_crop(self, chosen, rng):
    """A crop that is not flat, if there is one; a tenth may be flat, as photographs are."""
    for _ in range(1 if rng.random() < 0.1 else TRIES):
      crop = self._crop(chosen, rng)
      if crop.std(axis=(0, 1)).mean() >= FLAT:
        break
    return crop

  def _crop(self, chosen, rng):
    scaled = level(chosen.path, chosen.sizes[int(rng.integers(len(chosen.sizes)))])
    top = int(rng.integers(scaled.shape[0] - self._size + 1))
    left = int(rng.integers(scaled.shape[1] - self._size + 1))
    crop = scaled[top : top + self._size, left : left + self._size]
    return crop[:, ::-1] if rng.random() < 0.5 else crop

  def _skip(self, name, error):
    if name not in self.skipped:
      logging.warning('Skipped %s of %s: %s', name, self, error)
      self.skipped.append(name)

  def __repr__(self):
    return self._label
