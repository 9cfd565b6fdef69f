"""Owns how image files are read: upright, opaque, in RGB; and why one cannot be, in a line.

Of an animated picture, and of a file of several pages, the first one is read.
"""

import contextlib
import re
import struct
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import ExifTags, Image, ImageColor, UnidentifiedImageError

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.places import Place
from cdd.core.words import quoted

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
SLACK = 0.1  # How far a floating-point picture may leave 0..1, as resampling does; it is clipped.
ALIKE = 8  # Levels of 255 by which the channels of a grey picture may differ.
TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# Pillow's modes of one grey channel of more than eight bits, which `convert` would cut off at 255.
DEEP = ('I;16', 'I;16L', 'I;16B', 'I;16N', 'I', 'F')


class Unreadable(ValueError):
  """An image file that cannot be read; the message says why in one line."""


def opened(path: Place | bytes) -> Image.Image:
  """An image file, or its bytes, decoded; its pixels as they lie in the file: for `rgb` and others.

  Raises:
    Unreadable: it is missing, damaged or no image.
  """
  with _open(path) as image:
    image.load()
    return image


def size(path: Place | bytes) -> tuple[int, int]:
  """(width, height) of the upright image in pixels, read from the file's header alone.

  Raises:
    Unreadable: the file is missing or no image.
  """
  with _open(path) as image:
    tags = _tags(image)
    if image.format == 'PNG' and 'exif' not in image.info:
      _find_exif(image)
    lying = (tags[256], tags[257]) if tags else image.size
    return lying[::-1] if _orientation(image, tags) > 4 else lying


def rgb(picture: Image.Image, background: Sequence[int] = WHITE) -> Image.Image:
  """A picture of any kind upright, in mode RGB, without metadata.

  Grey of 16 bits, and floating-point grey of 0..1, is brought to eight bits. What is transparent is
  composited on a background.

  Args:
    picture: as Pillow opened it.
    background: (red, green, blue) in 0..255.

  Raises:
    Unreadable: it is damaged, or which of its values is white is not known.
  """
  with decoding():
    picture = _upright(picture)
    if picture.mode in DEEP:
      return _shallow(picture, background)
    if _transparent(picture):
      canvas = Image.new('RGBA', picture.size, (*background, 255))
      # Premultiplied modes are undone in their own pair of channels first.
      straight = {'La': 'LA', 'RGBa': 'RGBA'}.get(picture.mode, picture.mode)
      picture = picture if straight == picture.mode else picture.convert(straight)
      picture = Image.alpha_composite(canvas, picture.convert('RGBA'))
    plain = picture.convert('RGB')
    plain.info = {}
    return plain


def grey(picture: Image.Image) -> np.ndarray:
  """A picture's grey levels upright, float32 [height, width], at any bit depth and on any scale.

  Bright is large. What is transparent is black.

  Raises:
    Unreadable: it is damaged.
  """
  with decoding():
    picture = _upright(picture)
    if picture.mode in DEEP:
      values, _ = _levels(picture)
      return np.where(_hidden(picture), np.float32(0), values)
    return np.asarray(rgb(picture, BLACK).convert('L'), np.float32)


def share(picture: Image.Image) -> np.ndarray:
  """A picture's grey levels upright, float32 [height, width] in 0..1, 1 being white.

  What is transparent is black.

  Raises:
    Unreadable: it is damaged, or which of its values is white is not known.
  """
  with decoding():
    picture = _upright(picture)
    if picture.mode in DEEP:
      return np.where(_hidden(picture), np.float32(0), _of_white(picture))
    return np.asarray(rgb(picture, BLACK).convert('L'), np.float32) / 255


def opacity(picture: Image.Image) -> np.ndarray:
  """How opaque each pixel of the upright picture is, float32 [height, width] in 0..1.

  Raises:
    Unreadable: it is damaged.
  """
  with decoding():
    picture = _upright(picture)
    if picture.mode in DEEP:
      return np.where(_hidden(picture), np.float32(0), np.float32(1))
    if not _transparent(picture):
      return np.ones(picture.size[::-1], np.float32)
    straight = {'La': 'LA', 'RGBa': 'RGBA'}.get(picture.mode, picture.mode)
    picture = picture if straight == picture.mode else picture.convert(straight)
    return np.asarray(picture.convert('RGBA').getchannel('A'), np.float32) / 255


def one_channel(values: np.ndarray) -> np.ndarray:
  """The channel [h, w] of an array [h, w] or [h, w, c] whose channels are alike.

  Raises:
    Unreadable: they differ: the array is of colours, not of one quantity.
  """
  if values.ndim == 2:
    return values
  first = values[:, :, 0]
  slack = ALIKE if values.dtype == np.uint8 else 0
  # An opaque fourth channel says nothing.
  for other in np.moveaxis(values[:, :, 1:3], 2, 0):
    with np.errstate(invalid='ignore'):  # Two infinite values are alike, as two NaNs are.
      apart = np.abs(first.astype(np.float64) - other.astype(np.float64))
    if apart.max(initial=0, where=~np.isnan(apart)) > slack:
      raise Unreadable('its channels differ: it is a picture in colours, and no map of one value')
  return first


def colour(value: str | Sequence[int]) -> tuple[int, int, int]:
  """(red, green, blue) in 0..255 of a colour's name, its #rrggbb, or of three such numbers.

  Raises:
    UserError: it is none of these.
  """
  with contextlib.suppress(ValueError, TypeError):
    numbers = ImageColor.getrgb(value) if isinstance(value, str) else tuple(value)
    if len(numbers) == 3 and all(n == int(n) and 0 <= n <= 255 for n in numbers):
      return tuple(map(int, numbers))
  raise UserError(
    f'The background {value!r} is no colour; choose a name such as white, #rrggbb, '
    'or three whole numbers in 0..255.'
  )


@contextlib.contextmanager
def _open(path: Place | bytes) -> Iterator[Image.Image]:
  # By a path Pillow would map some TIFF files into memory, and garble those that are turned.
  with decoding(), places.opened(path) as file, Image.open(file) as image:
    yield image


@contextlib.contextmanager
def decoding() -> Iterator[None]:
  """Makes Unreadable of what readers raise for damaged files: almost any class of error."""
  try:
    yield
  except (Unreadable, UserError):
    raise
  except Exception as error:
    raise Unreadable(reason(error)) from error


def reason(error: Exception) -> str:
  """Why a file cannot be read, in words."""
  if isinstance(error, FileNotFoundError):
    return 'there is no such file'
  if isinstance(error, UnidentifiedImageError):
    return 'it is no image, or one of an unknown kind'
  if isinstance(error, OSError) and error.strerror:
    return error.strerror.lower()
  text = re.sub(r'\b\w*(Error|Exception):', '', str(error))  # As C++ libraries name theirs.
  return quoted(' '.join(text.split()).rstrip('.'), 200) or 'it is damaged'


def _tags(picture: Image.Image):
  """The tags of a TIFF file; empty for any other."""
  return getattr(picture, 'tag_v2', {}) if picture.format == 'TIFF' else {}


def _orientation(picture: Image.Image, tags) -> int:
  """EXIF's orientation, 1..8, without decoding; 1 if it is damaged."""
  with contextlib.suppress(Exception):  # As in decoding; the pixels may be sound.
    if tags:
      value = tags.get(ExifTags.Base.Orientation, 1)
    else:
      # PngImageFile.getexif would decode the whole picture.
      value = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    return value if value in TURNS else 1
  return 1


def _find_exif(picture: Image.Image) -> None:
  """Looks for the EXIF block of a PNG behind its pixels, which are skipped."""
  file = picture.fp
  file.seek(8)
  while len(head := file.read(8)) == 8:
    length, kind = struct.unpack('>I4s', head)
    if kind == b'eXIf':
      picture.info['exif'] = b'Exif\0\0' + file.read(length)
      return
    file.seek(length + 4, 1)


def _upright(picture: Image.Image) -> Image.Image:
  picture.load()  # Pillow turns a TIFF itself, and finds the EXIF block of a PNG wherever it lies.
  turn = TURNS.get(1 if _tags(picture) else _orientation(picture, {}))
  return picture if turn is None else picture.transpose(turn)


def _transparent(picture: Image.Image) -> bool:
  of_palette = picture.mode == 'P' and picture.palette and picture.palette.mode.endswith('A')
  channels = picture.mode in ('LA', 'La', 'PA', 'RGBA', 'RGBa')
  return channels or 'transparency' in picture.info or bool(of_palette)


def _hidden(picture: Image.Image) -> np.ndarray:
  """Where a deep picture is transparent: a PNG names one grey level that is. bool [h, w]."""
  level = picture.info.get('transparency')
  values = np.asarray(picture)
  return values == level if isinstance(level, int) else np.zeros(values.shape, bool)


def _levels(picture: Image.Image) -> tuple[np.ndarray, float | None]:
  """(values float32 [h, w], bright being large; which of them is white, if the file says it)."""
  values, tags = np.asarray(picture), _tags(picture)
  bits = tags.get(258, (16,))[0]
  if picture.mode == 'F':
    white = 1.0
  elif picture.mode == 'I' and tags:
    white = None
    if bits == 32 and tags.get(339, (1,))[0] == 1:
      values = values.view(np.uint32)  # Unsigned in the file; Pillow knows no such mode.
  else:
    white = 2.0**bits - 1
  values = values.astype(np.float32)
  if tags.get(262) == 0:  # The least value is white; Pillow inverts eight bits alone.
    values = (white or 0) - values
  return values, white


def _of_white(picture: Image.Image) -> np.ndarray:
  """A deep picture in 0..1, 1 being white."""
  values, white = _levels(picture)
  if not np.isfinite(values).all():
    raise Unreadable('its values are not all finite')
  low, high = values.min(), values.max()
  if white is None:
    raise Unreadable(
      f'its values are whole numbers from {low:.0f} to {high:.0f}, and which of them is white is '
      'not known; save it with 8 bits, or with 16 unsigned ones'
    )
  if low < -SLACK * white or high > (1 + SLACK) * white:
    raise Unreadable(
      f'its values go from {low:g} to {high:g}; they must lie in 0..{white:g}, 0 being black'
    )
  return np.clip(values / white, 0, 1)


def _shallow(picture: Image.Image, background: Sequence[int]) -> Image.Image:
  """A deep picture in RGB of eight bits."""
  levels = np.round(_of_white(picture) * 255).astype(np.uint8)
  colours = np.repeat(levels[:, :, None], 3, axis=2)
  return Image.fromarray(np.where(_hidden(picture)[:, :, None], np.uint8(background), colours))
