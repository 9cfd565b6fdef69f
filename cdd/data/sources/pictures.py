"""Owns image files: their headers are read first; pixels when drawn, cached up to a limit."""

import struct
import threading
from pathlib import Path
from typing import NamedTuple

import cachetools
import numpy as np
from PIL import ExifTags, Image, ImageOps

from cdd.data import transforms

ROOM = 1 << 30  # Bytes of decoded pictures that a process (each worker too) caches.

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
  """An image file that holds at least one crop, as `transforms.Whole`."""

  path: Path
  caption: str
  sizes: list[tuple[int, int]]

  @property
  def name(self) -> str:
    return self.path.name

  @property
  def unreadable(self) -> tuple[type[Exception], ...]:
    return UNREADABLE

  def arrays(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return dict(image=level(self.path, size))


def picture(path: Path, caption: str, crop: int) -> Picture:
  """Looks at a file's header alone.

  Raises:
    OSError, ValueError, ...: it is no image (UNREADABLE), or smaller than a crop.
  """
  with Image.open(path) as image:
    # Without an exif block at its head, getexif would decode the whole picture.
    turned = 'exif' in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) > 4
    return Picture(path, caption, transforms.sizes(*image.size[:: -1 if turned else 1], crop))


@cachetools.cached(cachetools.LRUCache(ROOM, getsizeof=lambda a: a.nbytes), lock=threading.Lock())
def level(path: Path, size: tuple[int, int]) -> np.ndarray:
  """The image at one size (Lanczos), uint8 [height, width, 3]."""
  with Image.open(path) as image:
    upright = ImageOps.exif_transpose(image) if 'exif' in image.info else image
    upright = upright.convert('RGB')
  same = upright.size == size
  return np.asarray(upright if same else upright.resize(size, Image.Resampling.LANCZOS))
