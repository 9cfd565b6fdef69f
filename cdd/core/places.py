"""Owns where data lies: local paths, and URLs such as gs://, s3:// and memory://, by fsspec."""

import contextlib
import difflib
import glob
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import fsspec

from cdd.core.errors import UserError
from cdd.core.words import quoted

Place = str | os.PathLike
ALIKE = 5  # Names that a message about a missing one lists.
# Scheme of a URL -> what installs the package that reads it.
PACKAGES = dict(
  gs="pip install 'cdd-jax[gcs]'",
  gcs="pip install 'cdd-jax[gcs]'",
  s3="pip install 'cdd-jax[s3]'",
  s3a="pip install 'cdd-jax[s3]'",
  abfs='pip install adlfs',
  az='pip install adlfs',
  http='pip install aiohttp',
  https='pip install aiohttp',
)


def is_url(place: Place) -> bool:
  """Whether a place is a URL, and no local path."""
  return '://' in str(place)


def is_local(place: str) -> bool:
  """Whether a text of the form 'owner/name' is meant as a local path, and not as a hub's name.

  It is if it is written as a path, or if the folder that it would lie in is here.
  """
  path = Path(place).expanduser()
  above = (folder for folder in path.parents if folder.name not in ('', '.', '..'))
  return place.startswith(('./', '../', '/', '~')) or any(folder.exists() for folder in above)


def missing(place: Place) -> str:
  """Why there is nothing at a local path: the first part of it that is not there, and its like.

  Returns:
    "there is no 'runs/dept_tiny'; runs holds 'depth_tiny'".
  """
  path = Path(place).expanduser()
  absent = next((part for part in reversed((path, *path.parents)) if not part.exists()), path)
  folder = absent.parent
  if not folder.is_dir():
    return f'{quoted(folder, 200)} is no folder'
  with contextlib.suppress(OSError):
    there = sorted(name for name in os.listdir(folder) if not _hidden(name))
    # Of the working folder, in which any text could lie, what is called alike is enough.
    others = there[:ALIKE] if folder != Path() else []
    if near := difflib.get_close_matches(absent.name, there, ALIKE) or others:
      where = 'the working folder' if folder == Path() else quoted(folder, 200)
      listed = ', '.join(repr(quoted(name)) for name in near)
      more = f' and {len(there) - len(near)} more' if near is others and near != there else ''
      return f"there is no '{quoted(absent, 200)}'; {where} holds {listed}{more}"
  return f"there is no '{quoted(absent, 200)}'"


def refuse_missing(place: Place, what: str, more: str = '') -> None:
  """Refuses a local path at which there is nothing.

  Args:
    what: what should be there, in words.
    more: a further sentence for the message.

  Raises:
    UserError: says which part of the path is missing, and what is called alike.
  """
  if not Path(place).expanduser().exists():
    raise UserError(f'There is no {what} at {quoted(place, 200)!r}: {missing(place)}.{more}')


def joined(folder: Place, name: str) -> Place:
  """A file below a folder."""
  return f'{str(folder).rstrip("/")}/{name}' if is_url(folder) else Path(folder) / name


def same(one: Place, other: Place) -> bool:
  """Whether two places are one: local paths are, if they lead to one file, whatever is there."""
  if is_url(one) or is_url(other):
    return str(one).rstrip('/') == str(other).rstrip('/')
  return os.path.realpath(one) == os.path.realpath(other)


def is_file(place: Place) -> bool:
  """Whether there is a file."""
  if not is_url(place):
    return os.path.isfile(place)
  with _of(place) as (system, path):
    return system.isfile(path)


def is_folder(place: Place) -> bool:
  """Whether there is a folder."""
  if not is_url(place):
    return os.path.isdir(place)
  with _of(place) as (system, path):
    return system.isdir(path)


def opened(place: Place | bytes) -> IO[bytes]:
  """A file from which all will be read, or bytes as one.

  Raises:
    OSError: a local file cannot be read, or there is no such file.
    UserError: a URL cannot be read.
  """
  if isinstance(place, bytes):
    return io.BytesIO(place)
  return io.BytesIO(read(place)) if is_url(place) else open(place, 'rb')


def read(place: Place) -> bytes:
  """The bytes of a file; raises as `opened`."""
  if not is_url(place):
    return Path(place).read_bytes()
  with _of(place) as (system, path):
    return system.cat_file(path)


def read_range(place: Place, start: int, end: int) -> bytes:
  """The bytes start..end of a file; raises as `opened`."""
  if is_url(place):
    with _of(place) as (system, path):
      return system.cat_file(path, start=start, end=end)
  with open(place, 'rb') as file:
    file.seek(start)
    return file.read(end - start)


@contextlib.contextmanager
def seekable(place: Place) -> Iterator[IO[bytes]]:
  """A file of which parts will be read; raises as `opened`."""
  if not is_url(place):
    with open(place, 'rb') as file:
      yield file
    return
  with _of(place) as (system, path):
    file = system.open(path, 'rb')
  with file:
    yield _Remote(place, file)


def stamp(place: Place) -> str:
  """What changes when a file does, without reading it; raises as `opened`."""
  if not is_url(place):
    found = os.stat(place)
    return f'{found.st_size} {found.st_mtime_ns}'
  with _of(place) as (system, path):
    return str(system.ukey(path))


def files(folder: Place) -> list[str]:
  """The paths of all files below a folder, from it, sorted; hidden ones are left out.

  A link to a folder is followed, and one folder is listed once.

  Raises:
    OSError: the folder cannot be read.
    UserError: a URL cannot be read.
  """
  if is_url(folder):
    with _of(folder) as (system, path):
      names = [name[len(path.rstrip('/')) :].lstrip('/') for name in system.find(path)]
    return sorted(name for name in names if not any(map(_hidden, name.split('/'))))
  found, seen = [], set()
  for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
    real = os.path.realpath(place)
    folders[:] = [] if real in seen else [name for name in sorted(folders) if not _hidden(name)]
    if real not in seen:
      below = Path(place).relative_to(folder)
      found += [(below / name).as_posix() for name in names if not _hidden(name)]
    seen.add(real)
  return sorted(found)


def matching(pattern: Place) -> list[str]:
  """The files that a pattern with *, ? or [...] matches, sorted; or the one file that it names."""
  if not is_url(pattern):
    return sorted(glob.glob(str(pattern))) or [str(pattern)] * os.path.isfile(pattern)
  with _of(pattern) as (system, path):
    return sorted(system.unstrip_protocol(name) for name in system.glob(path))


def _hidden(name: str) -> bool:
  return name.startswith('.') or name == '__MACOSX'


def _raise(error: OSError) -> None:
  raise error


class _Remote(io.RawIOBase):
  """An open file of a URL: that it cannot be read is told from what is wrong in it."""

  def __init__(self, url: Place, file: IO[bytes]):
    self._url, self._file = url, file

  def readable(self):
    return True

  def seekable(self):
    return True

  def readinto(self, buffer):
    with _said(self._url):
      data = self._file.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)

  def seek(self, offset, whence=io.SEEK_SET):
    with _said(self._url):
      return self._file.seek(offset, whence)

  def tell(self):
    return self._file.tell()


@contextlib.contextmanager
def _of(url: Place) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
  """(the file system of a URL, the path in it); what it raises becomes a line."""
  with _said(url):
    yield fsspec.core.url_to_fs(str(url))


@contextlib.contextmanager
def _said(url: Place) -> Iterator[None]:
  """Makes a line of what a file system raises: almost any class of error."""
  try:
    yield
  except (UserError, FileNotFoundError, IsADirectoryError):
    raise
  except ImportError as error:
    scheme = str(url).partition('://')[0]
    advice = PACKAGES.get(scheme, quoted(error, 200))
    raise UserError(f'{url} needs a package to read {scheme}://: {advice}.') from error
  except Exception as error:
    reason = quoted(' '.join(str(error).split()), 200) or 'it gives no reason'
    raise UserError(f'{url} cannot be read: {reason}.') from error
