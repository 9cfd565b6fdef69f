"""Owns writing a file or a folder whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
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


def _remove(path: Path) -> None:
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)
