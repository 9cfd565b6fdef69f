"""Owns the arrays of an example: their names in people's data, and how their files are read."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from cdd.core.places import Place
from cdd.data import images, numeric
from cdd.data.images import Unreadable

File = Place | bytes | np.ndarray  # A path, a URL, an encoded file, or what was decoded already.


class Array(NamedTuple):
  """How an array of an example is found and read.

  Attributes:
    names: what columns, folders and parts of file names call it; its own name comes first.
    from_picture: (a picture as Pillow opened it, the background) -> the array at its own size.
    from_numbers: an array [height, width, channels] of numbers -> the same.
    resized: (the array, (width, height)) -> the array at that size.
  """

  names: Sequence[str]
  from_picture: Callable[[Image.Image, Sequence[int]], np.ndarray]
  from_numbers: Callable[[np.ndarray], np.ndarray]
  resized: Callable[[np.ndarray, tuple[int, int]], np.ndarray]


def size(file: File, name: str) -> tuple[int, int]:
  """(width, height) of an array's file upright, from its header alone.

  Raises:
    Unreadable: it is missing, damaged, or of no such kind.
  """
  if isinstance(file, np.ndarray):
    return file.shape[1::-1]
  return numeric.size(file, ARRAYS[name].names) if numeric.of(file) else images.size(file)


def read(file: File, name: str, background: Sequence[int] = images.WHITE) -> np.ndarray:
  """An array at its own size; `image`, `edited_image` and `condition` uint8, others float32.

  Args:
    background: (red, green, blue) in 0..255, behind the transparent pixels of colours.

  Raises:
    Unreadable: it is missing, damaged, or of no such kind.
  """
  kind = ARRAYS[name]
  if isinstance(file, np.ndarray):
    return kind.from_numbers(file if file.ndim == 3 else file[:, :, None])
  if numeric.of(file):
    return kind.from_numbers(numeric.values(file, kind.names))
  return kind.from_picture(images.opened(file), background)


def resized(array: np.ndarray, name: str, size: tuple[int, int]) -> np.ndarray:
  """An array at a size (width, height)."""
  return array if array.shape[1::-1] == size else ARRAYS[name].resized(array, size)


def alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
  """Whether two sizes (width, height) have one aspect ratio, but for the rounding of a side."""
  (a, b), (c, d) = size, other
  return abs(a - b * c / d) <= 1 or abs(b - a * d / c) <= 1


def _colours(picture, background):
  return np.asarray(images.rgb(picture, background))


def _colours_of_numbers(values):
  """uint8 [h, w, 3] of whole numbers in 0..255, or of others in 0..1."""
  if values.dtype == np.uint16:
    values = values / np.float32(65535)
  if values.dtype != np.uint8:
    values = np.round(255 * _in_range(values)).astype(np.uint8)
  if values.shape[2] == 1:
    values = values.repeat(3, axis=2)
  if values.shape[2] != 3:
    raise Unreadable(f'it has {values.shape[2]} channels; an array of colours has 3, or 1 of grey')
  return values


def _depth(picture, background):
  if picture.mode not in images.DEEP:
    images.one_channel(np.asarray(images.rgb(picture, images.BLACK)))
  return images.grey(picture)


def _depth_of_numbers(values):
  with np.errstate(over='ignore'):
    return images.one_channel(values).astype(np.float32)


def _mask(picture, background):
  return _no_label(images.share(picture))


def _mask_of_numbers(values):
  values = images.one_channel(values)
  if values.dtype.kind in 'iu':
    return _no_label(values.astype(np.float32) / np.iinfo(values.dtype).max)
  return _in_range(values).astype(np.float32)


def _no_label(values):
  """A mask in 0..1; one of the numbers 0 and 1 would be taken for black."""
  if 0 < values.max() <= 1.001 / 255:
    raise Unreadable('its greatest value is 1 of 255; a mask is white (255) where it holds')
  return values


def _in_range(values):
  """Values in 0..1, those a little outside clipped."""
  if not np.isfinite(values).all():
    raise Unreadable('its values are not all finite')
  low, high = values.min(), values.max()
  if low < -images.SLACK or high > 1 + images.SLACK:
    raise Unreadable(f'its values go from {low:g} to {high:g}; they must lie in 0..1')
  return np.clip(values, 0, 1)


def _lanczos(array, size):
  return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.LANCZOS))


def _bilinear(array, size):
  return np.clip(_scaled(array, size, Image.Resampling.BILINEAR), 0, 1)


def _with_holes(array, size):
  """Bilinear among the pixels that have a depth: positive, finite numbers.

  A pixel less than half of which has one is the nearest pixel's value, such as 0, NaN or inf. So
  nothing between a depth and what is none is made up.
  """
  valid = np.isfinite(array) & (array > 0)
  values = _scaled(np.where(valid, array, 0), size, Image.Resampling.BILINEAR)
  if valid.all():
    return values
  share = _scaled(valid.astype(np.float32), size, Image.Resampling.BILINEAR)
  nearest = _scaled(array, size, Image.Resampling.NEAREST)
  return np.where(share >= 0.5, values / np.maximum(share, 0.5), nearest)


def _scaled(array, size, how):
  return np.asarray(Image.fromarray(array.astype(np.float32)).resize(size, how))


_OF_COLOURS = _colours, _colours_of_numbers, _lanczos
ARRAYS = dict(
  image=Array(('image', 'original_image', 'input_image', 'source_image'), *_OF_COLOURS),
  edited_image=Array(('edited_image', 'edited', 'output_image', 'target_image'), *_OF_COLOURS),
  condition=Array(
    (
      'condition',
      'conditioning_image',
      'conditioning',
      'condition_image',
      'control_image',
      'control',
      'hint',
      'processed_image',
    ),
    *_OF_COLOURS,
  ),
  depth=Array(('depth', 'depth_image', 'depth_map'), _depth, _depth_of_numbers, _with_holes),
  mask=Array(('mask', 'mask_image'), _mask, _mask_of_numbers, _bilinear),
)
