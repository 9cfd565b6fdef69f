"""Owns image files: their headers are read first; pixels when drawn, cached up to a limit."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cachetools
import numpy as np
from PIL import Image

from cdd.data import images, transforms

ROOM = 1 << 30  # Bytes of decoded pictures that a process (each worker too) caches.


class Picture(NamedTuple):
  """An image file that holds at least one crop, as `transforms.Whole`."""

  path: Path
  caption: str | Sequence[str]
  sizes: list[tuple[int, int]]
  background: tuple[int, int, int] = images.WHITE

  @property
  def name(self) -> str:
    return self.path.name

  @property
  def unreadable(self) -> tuple[type[Exception], ...]:
    return (images.Unreadable,)

  def arrays(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return dict(image=level(self.path, size, self.background))


def picture(
  path: Path, caption: str | Sequence[str], crop: int, background=images.WHITE
) -> Picture:
  """Looks at a file's header alone.

  Raises:
    images.Unreadable: it is missing or no image.
    transforms.TooSmall: it is smaller than a crop.
  """
  return Picture(path, caption, transforms.sizes(*images.size(path), crop), background)


@cachetools.cached(cachetools.LRUCache(ROOM, getsizeof=lambda a: a.nbytes), lock=threading.Lock())
def level(path: Path, size: tuple[int, int], background=images.WHITE) -> np.ndarray:
  """The image at one size (Lanczos), uint8 [height, width, 3]; images.Unreadable if damaged."""
  upright = images.rgb(images.opened(path), background)
  same = upright.size == size
  return np.asarray(upright if same else upright.resize(size, Image.Resampling.LANCZOS))
