"""Owns where data lies: local paths, and URLs such as gs://, s3:// and memory://, by fsspec."""

import contextlib
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


def joined(folder: Place, name: str) -> Place:
  """A file below a folder."""
  return f'{str(folder).rstrip("/")}/{name}' if is_url(folder) else Path(folder) / name


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
