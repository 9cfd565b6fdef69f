"""Owns files of numbers that are no pictures: .npy, .npz and OpenEXR; one map of pixels each."""

import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.places import Place
from cdd.core.words import quoted
from cdd.data import images
from cdd.data.images import Unreadable

DEPTHS = ('Z', 'depth', 'Y')  # Channels of OpenEXR that hold a depth; the first comes first.


class Format(NamedTuple):
  """A kind of file: how it begins, and what reads the shape and the values of the array in it."""

  magic: bytes
  shape: Callable[[Place | bytes, Sequence[str]], tuple[int, ...]]
  values: Callable[[Place | bytes, Sequence[str]], np.ndarray]


def of(file: Place | bytes) -> Format | None:
  """The format of a file, by its suffix, or of bytes, by how they begin; None of a picture."""
  if isinstance(file, bytes):
    return next((each for each in FORMATS.values() if file.startswith(each.magic)), None)
  return FORMATS.get(os.path.splitext(str(file))[1].lower())


def size(file: Place | bytes, names: Sequence[str]) -> tuple[int, int]:
  """(width, height) of the array in a file, by its header; `names` as in `values`.

  Raises:
    Unreadable: it is damaged, no map of pixels, or too large.
  """
  with images.decoding():
    shape = of(file).shape(file, names)
    return _laid_out(shape)[1::-1]


def values(file: Place | bytes, names: Sequence[str]) -> np.ndarray:
  """The array in a file, [height, width, channels], of the type that it has there.

  Args:
    names: what it may be called in a .npz that holds several.

  Raises:
    Unreadable: it is damaged, no map of pixels, or too large.
  """
  with images.decoding():
    kind = of(file)
    shape = _laid_out(kind.shape(file, names))
    array = kind.values(file, names)
    if array.dtype.kind not in 'biuf':
      raise Unreadable(f'its values are of type {array.dtype}, which are no numbers')
    return array.reshape(shape)


def _laid_out(shape: tuple[int, ...]) -> tuple[int, int, int]:
  """A shape as [height, width, channels]; one in front, as of a batch of one, is left out."""
  whole = shape[1:] if len(shape) in (3, 4) and shape[0] == 1 else shape
  whole = (*whole, 1) if len(whole) == 2 else whole
  if len(whole) != 3 or 0 in whole:
    raise Unreadable(f'it is an array of shape {shape}; it must be [height, width]')
  limit = 2 * (Image.MAX_IMAGE_PIXELS or np.inf)  # As Pillow limits pictures.
  if whole[0] * whole[1] > limit or whole[2] > 4:
    raise Unreadable(f'it is an array of shape {shape}, which is too large for a map of pixels')
  return whole


def _npy_shape(file, names):
  with places.opened(file) as stream:
    return _header(stream)


def _header(stream):
  formats = np.lib.format
  try:
    old = formats.read_magic(stream) == (1, 0)
    read = formats.read_array_header_1_0 if old else formats.read_array_header_2_0
    return read(stream)[0]
  except Exception as error:  # It is a Python literal, with all that may be wrong in one.
    raise Unreadable('its header is damaged') from error


def _npy_values(file, names):
  with places.opened(file) as stream:
    return np.load(stream, allow_pickle=False)


def _npz_shape(file, names):
  with (
    places.opened(file) as stream,
    zipfile.ZipFile(stream) as archive,
    archive.open(_member(archive, names)) as member,
  ):
    return _header(member)


def _npz_values(file, names):
  with places.opened(file) as stream, zipfile.ZipFile(stream) as archive:
    data = archive.read(_member(archive, names))
  return np.load(io.BytesIO(data), allow_pickle=False)


def _member(archive, names):
  there = [name.removesuffix('.npy') for name in archive.namelist()]
  found = there if len(there) == 1 else [name for name in names if name in there]
  if not found:
    raise Unreadable(f'it holds {quoted(there, 200)}; one must be {names[0]!r}')
  return f'{found[0]}.npy'


def _exr_shape(file, names):
  low, high = _exr(file, lambda part: part.header['dataWindow'], header_only=True)
  width, height = (int(n) for n in high - low + 1)
  return height, width


def _exr_values(file, names):
  return _exr(file, lambda part: _channel({k: c.pixels for k, c in part.channels.items()}, names))


def _channel(channels, names):
  """The channel of a depth; one of colours, if all are alike, is read as one."""
  known = [name for name in (*DEPTHS, *names) if name in channels]
  name = next(iter(known or channels))
  if not known and len(channels) > 1:
    raise Unreadable(f'its channels are {quoted(sorted(channels), 200)}; one must be Z or depth')
  return images.one_channel(channels[name])


def _exr(file, read, **settings):
  """What `read` makes of the first part of a file."""
  try:
    import OpenEXR
  except ImportError as error:
    raise UserError(
      "OpenEXR files need the package OpenEXR: pip install 'cdd-jax[exr]'."
    ) from error
  if isinstance(file, bytes) or places.is_url(file):
    data = file if isinstance(file, bytes) else places.read(file)
    with tempfile.NamedTemporaryFile(suffix='.exr') as copy:  # The package reads paths alone.
      copy.write(data)
      copy.flush()
      return _exr(copy.name, read, **settings)
  with open(file, 'rb'):  # Says why it cannot be opened.
    return read(OpenEXR.File(str(file), **settings).parts[0])


FORMATS = {
  '.npy': Format(b'\x93NUMPY', _npy_shape, _npy_values),
  '.npz': Format(b'PK\x03\x04', _npz_shape, _npz_values),
  '.exr': Format(b'\x76\x2f\x31\x01', _exr_shape, _exr_values),
}
