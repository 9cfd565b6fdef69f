"""Owns which files of a folder belong together by their names: a.png, a.depth.png, depth/a.png."""

import functools
import posixpath
from collections.abc import Sequence

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.places import Place
from cdd.data.arrays import ARRAYS

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')
NUMBERS = ('.npy', '.npz', '.exr')  # Before pictures, which may be a coarser copy.
TEXTS = ('.txt', '.caption')


def folders(array: str) -> tuple[str, ...]:
  """What a folder of an array's files may be called."""
  names = ARRAYS[array].names
  return (*names, *(f'{name}s' for name in names))


class Files:
  """The files of a folder and of those in it, by their names; listed when they are asked for."""

  def __init__(self, folder: Place):
    self.folder = folder

  @functools.cached_property
  def names(self) -> list[str]:
    """All paths from the folder, sorted.

    Raises:
      UserError: it cannot be read.
    """
    try:
      return places.files(self.folder)
    except OSError as error:
      said = f'The image folder {self.folder} cannot be read: {error.strerror}.'
      raise UserError(said) from error

  @functools.cached_property
  def _by_stem(self) -> dict[str, list[str]]:
    """A path without its suffix -> its suffixes, numbers first."""
    found = {}
    for name in self.names:
      stem, suffix = posixpath.splitext(name)
      found.setdefault(stem, []).append(suffix)
    order = {suffix: rank for rank, suffix in enumerate((*NUMBERS, *SUFFIXES))}
    for suffixes in found.values():
      suffixes.sort(key=lambda suffix: order.get(suffix.lower(), len(order)))
    return found

  @functools.cached_property
  def _tops(self) -> dict[str, list[str]]:
    """Name of an array -> the folders of it that are there."""
    tops = dict.fromkeys(name.partition('/')[0] for name in self.names if '/' in name)
    lower = [(name.lower(), name) for name in tops]
    return {
      array: [name for known in folders(array) for low, name in lower if low == known]
      for array in ARRAYS
    }

  def with_suffix(self, stem: str, suffixes: Sequence[str]) -> list[str]:
    """The files of a stem that end in one of the suffixes, in the order of those."""
    there = self._by_stem.get(stem, ())
    return [stem + each for suffix in suffixes for each in there if each.lower() == suffix]

  def texts(self, image: str) -> list[str]:
    """The files of captions beside an image."""
    return self.with_suffix(_stem(image), TEXTS)

  def array(self, image: str, array: str) -> str | None:
    """The file of an array of an image: beside it, or under its name in a folder of its own."""
    stem = _stem(image)
    top, _, below = stem.partition('/')
    inner = below if below and top in self._tops['image'] else stem
    stems = [f'{stem}.{name}' for name in ARRAYS[array].names]
    stems += [f'{top}/{inner}' for top in self._tops[array]]
    found = (self.with_suffix(stem, (*NUMBERS, *SUFFIXES)) for stem in stems)
    return next((files[0] for files in found if files and image not in files), None)

  @functools.cached_property
  def images(self) -> list[str]:
    """The images: files that are no array of another one."""
    pictures = [n for n in self.names if posixpath.splitext(n)[1].lower() in SUFFIXES]
    others = {top for array in ARRAYS if array != 'image' for top in self._tops[array]}
    outside = {_stem(name) for name in pictures if name.partition('/')[0] not in others}
    tops = {top for top in others if self._tops['image'] or self._matches(top, pictures, outside)}
    return [
      name
      for name in pictures
      if not (('/' in name and name.partition('/')[0] in tops) or _is_array(name, outside))
    ]

  def _matches(self, top: str, pictures: list[str], outside: set[str]) -> bool:
    """Whether a folder holds something under the name of a picture outside it."""
    inside = (_stem(name)[len(top) + 1 :] for name in pictures if name.startswith(f'{top}/'))
    return any(stem in outside for stem in inside)


def _stem(name: str) -> str:
  return posixpath.splitext(posixpath.normpath(name))[0]


def _is_array(name: str, stems: set[str]) -> bool:
  """Whether a file is called as an array of an image of these stems."""
  stem, _, array = _stem(name).rpartition('.')
  return stem in stems and any(array in ARRAYS[each].names for each in ARRAYS if each != 'image')
