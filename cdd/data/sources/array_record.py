"""Owns ArrayRecord files of MessagePack maps as a source of random crops."""

import functools
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import cachetools
import msgpack
import numpy as np

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.words import quoted
from cdd.data import arrays, images
from cdd.data.sources import fields, pictures, records
from cdd.data.sources.needs import refuse_others

SUFFIXES = ('.array_record', '.arrayrecord')
OPEN = 256  # Files that a process holds open.


def array_record(
  needs: Sequence[str] = ('image',),
  /,
  *,
  path,
  size: int | tuple,
  seed: int = 0,
  length: int = 10_000_000,
  caption_column: str | None = None,
  columns: Mapping | None = None,
  background: str | Sequence[int] = 'white',
  flip: bool = True,
  max_skipped: float = 0.1,
):
  """Random crops of the images in ArrayRecord files, which grain reads fastest.

  A record is a MessagePack map: names of arrays ('image', 'depth', ...) -> encoded files (JPEG,
  PNG, .npy, ...), and a name of captions ('text', 'caption', ...) -> a text or several. The files
  are to be written with group_size 1 (docs/own_data.md shows it).

  Args:
    path: a local file, a folder, a pattern such as data/train-*.array_record, or several of these.
    size: side of the crops in pixels, or their (height, width).
    caption_column: the name of the captions; '' trains without any. If None, the first that a
      record fills of 'text', 'caption', 'prompt' and the like.
    columns: name of an array ('image', 'depth', ...) -> its name in the records, if it is another.
    background: what lies behind transparent pixels: a colour's name, #rrggbb, or (r, g, b).
    flip: mirrors half of the crops.
    max_skipped: the share of damaged examples that is skipped; more are an error.

  Raises:
    UserError: no such file, one that is damaged or holds other records, no array that the task
      reads, or a bad setting.
  """
  refuse_others(needs, arrays.ARRAYS, 'array_record')
  colour = images.colour(background)
  for each in path if isinstance(path, list | tuple) else [path]:
    if places.is_url(each):
      raise UserError(f'{each}: ArrayRecord files are read from local folders; mount the bucket.')
  files = records.parts(path, SUFFIXES)
  with ThreadPoolExecutor(16) as pool:
    counts = list(pool.map(_count, files))
  name = records.called('array_record', files)
  found = None
  if sum(counts):
    try:
      first = _record(files[int(np.flatnonzero(counts)[0])], 0)
    except images.Unreadable as error:
      raise UserError(f'The first record of {name} cannot be read: {error}.') from error
    settings = dict(columns=columns, caption_column=caption_column)
    found = fields.of_records(name, list(first), needs, **settings)
  rows = Rows(files, counts, found, size, colour)
  return records.crops(
    rows, name, size=size, seed=seed, length=length, flip=flip, max_skipped=max_skipped
  )


class Rows:
  """The records of some files, in their order; each is read when it is drawn."""

  def __init__(self, files, counts: Sequence[int], found, size, colour):
    self._files, self._found = files, found
    self._settings = dict(crop=size, background=colour)
    self._ends = np.cumsum(np.array(counts, np.int64))

  def __len__(self):
    return int(self._ends[-1])

  def __getitem__(self, number) -> pictures.Record:
    which = int(np.searchsorted(self._ends, number, 'right'))
    row = int(number) - (int(self._ends[which - 1]) if which else 0)
    part = self._files[which]
    load = functools.partial(_loaded, part, row, self._found)
    return pictures.Record(f'{part.name}, record {row}', load, **self._settings)


def _loaded(part: records.Part, row: int, found: fields.Fields):
  """(name of an array -> its file, the caption) of a record."""
  return fields.read(part.path, _record(part, row), found, part.folder)


def _record(part: records.Part, row: int) -> dict:
  with images.decoding():
    (data,) = _reader(part, os.getpid()).read([row])
    record = msgpack.unpackb(data)
  if not isinstance(record, dict) or not all(isinstance(name, str) for name in record):
    raise images.Unreadable('it is no MessagePack map of names')
  return record


@cachetools.cached(cachetools.LRUCache(OPEN), lock=threading.Lock())
def _reader(part: records.Part, process: int):
  """An open file, of one process."""
  try:
    from array_record.python import array_record_module
  except ImportError as error:
    raise UserError(
      'The source array_record needs the package array_record, which exists for Linux and macOS.'
    ) from error
  # Without reading ahead: records are read in a random order.
  options = 'readahead_buffer_size:0'
  settings = dict(options=options, file_reader_buffer_size=32768)
  return array_record_module.ArrayRecordReader(part.path, **settings)


def _count(part: records.Part) -> int:
  """How many records a file has.

  Raises:
    UserError: it is no such file.
  """
  reader = _reader(part, os.getpid())
  if not reader.ok():
    try:
      reader.read([0])
      reason = 'it is damaged'
    except (RuntimeError, ValueError) as error:
      reason = quoted(images.reason(error), 200)
    raise UserError(f'{part.path} cannot be read as an ArrayRecord file: {reason}.')
  if 'group_size:1,' not in f'{reader.writer_options_string()},':
    said = '%s has groups of records, each of which is read whole; write it with group_size:1.'
    logging.warning(said, part.path)
  return reader.num_records()
