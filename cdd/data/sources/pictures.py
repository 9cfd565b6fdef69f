"""Owns whole examples (`transforms.Whole`): files whose headers are read first, and records."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cachetools
import numpy as np

from cdd.core.places import Place
from cdd.data import arrays, buckets, images, transforms
from cdd.data.arrays import File

ROOM = 1 << 30  # Bytes of decoded arrays that a process (each worker too) caches.
Caption = str | Sequence[str]


class Picture(NamedTuple):
  """An example of files that hold at least one crop; pixels are read when it is drawn, and cached.

  Attributes:
    files: name of an array -> its path.
    crop: the side of its crops, or their (height, width).
  """

  name: str
  files: Mapping[str, Place]
  caption: Caption
  original: tuple[int, int]
  sizes: list[tuple[int, int]]
  crop: int | tuple[int, int]
  background: tuple[int, int, int] = images.WHITE

  def arrays(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return {name: level(path, size, name, self.background) for name, path in self.files.items()}


def picture(
  name: str,
  files: Mapping[str, Place],
  caption: Caption,
  size: int | Sequence,
  background=images.WHITE,
) -> Picture:
  """Looks at the files' headers alone; raises as `measured`.

  Args:
    size: of its crops; of several, it takes that whose shape is nearest (`buckets`).
  """
  original = measured(files)
  if transforms.several(size):
    crop = buckets.nearest(*original, size)
    sizes = [buckets.filling(*original, crop)]
  else:
    crop, sizes = size, transforms.sizes(*original, size)
  return Picture(name, files, caption, original, sizes, crop, background)


class Record:
  """An example that is read when it is drawn, and not kept.

  Its sizes, its caption and its arrays raise what `load` and `measured` do.
  """

  def __init__(
    self,
    name: str,
    load: Callable[[], tuple[Mapping[str, File], Caption]],
    crop: int | Sequence[int],
    background=images.WHITE,
  ):
    """`load` gives (name of an array -> its file, the caption)."""
    self.name, self._load, self._crop, self._background = name, load, crop, background
    self._whole = {}

  @functools.cached_property
  def _loaded(self):
    return self._load()

  @functools.cached_property
  def original(self) -> tuple[int, int]:
    return measured(self._loaded[0])

  @property
  def sizes(self) -> list[tuple[int, int]]:
    return transforms.sizes(*self.original, self._crop)

  @property
  def caption(self) -> Caption:
    return self._loaded[1]

  def arrays(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """At a size; each file is decoded once."""
    for name, file in self._loaded[0].items():
      if name not in self._whole:
        with naming(name):
          self._whole[name] = arrays.read(file, name, self._background)
    return {name: arrays.resized(array, name, size) for name, array in self._whole.items()}


def measured(files: Mapping[str, File]) -> tuple[int, int]:
  """The (width, height) of an example, by its files' headers.

  Raises:
    images.Unreadable: a file is missing or damaged, or of another aspect ratio than the image.
  """
  size = arrays.size(files['image'], 'image')
  for name in [name for name in files if name != 'image']:
    with naming(name):
      other = arrays.size(files[name], name)
    if not arrays.alike(size, other):
      raise images.Unreadable(
        f'its {name} is {other[0]}x{other[1]} pixels, which is another aspect ratio than the '
        f"image's {size[0]}x{size[1]}"
      )
  return size


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
  """Says of which array a file is, if it is unreadable and not the image."""
  try:
    yield
  except images.Unreadable as error:
    if name == 'image':
      raise
    raise images.Unreadable(f'its {name}: {error}') from error


@cachetools.cached(cachetools.LRUCache(ROOM, getsizeof=lambda a: a.nbytes), lock=threading.Lock())
def level(
  path: Place, size: tuple[int, int], name: str = 'image', background=images.WHITE
) -> np.ndarray:
  """An array's file at one size (width, height); raises images.Unreadable if it is damaged.

  Colours are reduced by Lanczos' filter, masks and depths bilinearly (`arrays`).
  """
  with naming(name):
    return arrays.resized(arrays.read(path, name, background), name, size)
