"""Owns whether a folder still holds what was written: sizes and checksums of its files."""

import json
import zlib
from pathlib import Path

NAME = 'checksums.json'
# Orbax writes these when, or after, a checkpoint is sealed.
LATER = (NAME, 'commit_success.txt', '_CHECKPOINT_METADATA')


def seal(folder: Path) -> None:
  """Writes the size and the CRC-32 of every file below `folder` into it.

  Raises:
    OSError: a file cannot be read, or the disk is full.
  """
  (folder / NAME).write_text(json.dumps({name: sums(folder / name) for name in names(folder)}))


def fault(folder: Path) -> str | None:
  """What is wrong with a sealed folder, in words; None if it is intact or was never sealed."""
  if not (folder / NAME).exists():
    return None
  try:
    for name, (size, checksum) in json.loads((folder / NAME).read_text()).items():
      path = folder / name
      if not path.is_file():
        return f'{name} is missing'
      if path.stat().st_size != size:
        return f'{name} has {path.stat().st_size} bytes, not {size}'
      if sums(path)[1] != checksum:
        return f'{name} does not have the checksum that it was written with'
  except (OSError, ValueError, AttributeError) as error:
    return f'{NAME} or what it lists cannot be read: {error}'
  return None


def names(folder: Path) -> list[str]:
  """The files below a folder that do not change once it is sealed."""
  paths = (path for path in sorted(folder.rglob('*')) if path.is_file())
  return [path.relative_to(folder).as_posix() for path in paths if path.name not in LATER]


def sums(path: Path) -> tuple[int, int]:
  """(bytes, CRC-32) of a file, read in pieces of 16 MiB."""
  size = checksum = 0
  with path.open('rb') as file:
    while piece := file.read(2**24):
      size, checksum = size + len(piece), zlib.crc32(piece, checksum)
  return size, checksum
