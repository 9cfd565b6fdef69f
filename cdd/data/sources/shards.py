"""Owns where the samples of a tar shard lie, found once, and the reading of one of them."""

import hashlib
import io
import logging
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from cdd.core import files, places
from cdd.core.errors import UserError
from cdd.data import images
from cdd.data.sources.records import Part

# How compressed files begin.
COMPRESSED = {b'\x1f\x8b': 'gzip', b'BZh': 'bzip2', b'\xfd7zXZ': 'xz', b'\x28\xb5\x2f\xfd': 'zstd'}
NAME = re.compile(r'((?:.*/)?[^/.]+)[.]([^/]+)')  # A key, and all behind the first dot.


def read(shard: str, start: int, end: int) -> dict[str, bytes]:
  """What stands behind the first dot of a name -> the bytes of the member, of one sample.

  Raises:
    OSError, tarfile.TarError: the shard is damaged, or another than it was.
  """
  data = places.read_range(shard, start, end)
  with tarfile.open(fileobj=io.BytesIO(data), mode='r:') as archive:
    found = {}
    for info in archive:
      name = split(info)
      if name is not None:
        found[name[1]] = archive.extractfile(info).read()
    return found


def index(part: Part) -> np.ndarray:
  """Where the samples of a shard lie: int64 [samples, 2], (first byte, first byte behind).

  It is read from ~/.cache/cdd/webdataset, or made and kept there.

  Raises:
    UserError: the shard is compressed, or no tar file.
  """
  place = part.path if places.is_url(part.path) else os.path.abspath(part.path)
  name = hashlib.sha256(f'{place} {part.stamp}'.encode()).hexdigest()[:32]
  cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'cdd' / 'webdataset'
  kept = cache / f'{name}.npy'
  if kept.exists():
    return np.load(kept)
  found = np.array(list(_spans(part.path)), np.int64).reshape(-1, 2)
  file = io.BytesIO()
  np.save(file, found)
  try:
    files.write(kept, file.getvalue())
  except OSError as error:
    logging.warning('Where the samples of %s lie is not kept: %s.', part.path, images.reason(error))
  return found


def _spans(shard: str) -> Iterator[tuple[int, int]]:
  """(first byte, first byte behind) of every sample; one that is cut off at the end is left out."""
  with places.seekable(shard) as file:
    head = file.read(8)
    for magic, kind in COMPRESSED.items():
      if head.startswith(magic):
        raise UserError(
          f'{shard} is compressed ({kind}); samples are read by their offsets in a plain .tar, so '
          'unpack it first.'
        )
    file.seek(0)
    archive = _opened(shard, file)
    key = start = end = None
    try:
      for info in archive:
        name = split(info)
        if name is not None and name[0] != key:
          if key is not None:
            yield start, end
          key, start = name[0], info.offset
        end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        archive.members = []  # It would keep them all.
    except tarfile.TarError as error:
      logging.warning('%s is damaged behind byte %s: %s.', shard, end, images.reason(error))
      return
    if key is None:
      return
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):  # So a tar file ends.
      yield start, end
    else:
      logging.warning('%s is cut off; its last sample is left out.', shard)


def _opened(shard: str, file: IO[bytes]) -> tarfile.TarFile:
  try:
    return tarfile.open(fileobj=file, mode='r:')
  except tarfile.TarError as error:
    raise UserError(f'{shard} is no tar file: {images.reason(error)}.') from error


def split(info: tarfile.TarInfo) -> tuple[str, str] | None:
  """(key, all behind the first dot of the name) of a member; None if it is of no sample."""
  base = posixpath.basename(info.name)
  found = NAME.fullmatch(info.name)
  if not info.isfile() or base.startswith(('.', '__')) or found is None:
    return None
  return found[1], found[2].lower()
