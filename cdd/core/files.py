"""Owns every write of a file or a folder: it is there complete, or not at all."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Why a disk may refuse to be written in the middle of a run: it is full, over quota, or broken.
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
  """A path to write to instead of `path`: it takes its place at the end, or is gone on an error."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  new, old = (path.with_name(path.name + suffix) for suffix in ('.tmp', '.old'))
  _remove(new)
  try:
    yield new
    if path.is_dir():
      _remove(old)
      os.replace(path, old)
    os.replace(new, path)
    _remove(old)
  finally:
    _remove(new)


def unwritable(folder: Path) -> str:
  """Why a folder, which need not be there, cannot be written; empty if it can."""
  place = folder.absolute()
  there = next(path for path in (place, *place.parents) if os.path.lexists(path))
  if not there.is_dir():
    return f'{there} is no folder'
  return '' if os.access(there, os.W_OK) else f'{there} is not writable'


def write(path: Path, data: str | bytes) -> None:
  """Writes a text (UTF-8) or bytes."""
  with atomic(path) as new:
    new.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, fields: Any) -> None:
  """Writes JSON, indented, with a line end."""
  write(path, json.dumps(fields, indent=2) + '\n')


def _remove(path: Path) -> None:
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)
