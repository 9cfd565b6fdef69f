"""Owns Parquet and Arrow files, such as Hugging Face's datasets, as a source of random crops."""

import functools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import cachetools
import numpy as np

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.words import quoted
from cdd.data import arrays, images
from cdd.data.sources import fields, pictures, records
from cdd.data.sources.needs import refuse_others

SUFFIXES = ('.parquet', '.arrow')


def parquet(
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
  """Random crops of the images in the rows of Parquet or Arrow files.

  A column of images holds encoded files, as bytes or as Hugging Face's {bytes, path}, or paths
  below the folder of the Parquet file; one of depths may hold rows of numbers. A row group of a
  Parquet file is read whole, and cached up to 1 GiB; a row of an Arrow file is read alone.

  Args:
    path: a file, a folder, a pattern such as gs://bucket/train-*.parquet, or several of these;
      Arrow files are local.
    size: side of the crops in pixels, or their (height, width).
    caption_column: the column of captions; '' trains without any. If None, the first that a row
      fills of 'text', 'caption', 'prompt' and the like.
    columns: name of an array ('image', 'depth', ...) -> its column, where it is not called so.
    background: what lies behind transparent pixels: a colour's name, #rrggbb, or (r, g, b).
    flip: mirrors half of the crops.
    max_skipped: the share of damaged examples that is skipped; more are an error.

  Raises:
    UserError: no such file, one that is damaged, a column that is missing, or a bad setting.
  """
  refuse_others(needs, arrays.ARRAYS, 'parquet')
  colour = images.colour(background)
  files = records.parts(path, SUFFIXES)
  with ThreadPoolExecutor(16) as pool:
    groups = list(pool.map(_groups, files))
  settings = dict(columns=columns, caption_column=caption_column)
  found = [fields.of_records(file.path, _columns(file), needs, **settings) for file in files]
  rows = Rows(files, groups, found, size, colour)
  name = records.called('parquet', files)
  return records.crops(
    rows, name, size=size, seed=seed, length=length, flip=flip, max_skipped=max_skipped
  )


class Rows:
  """The rows of some files, in their order; each is read when it is drawn."""

  def __init__(self, files, groups: Sequence[Sequence[int]], found, size, colour):
    """`groups`: how many rows each group of each file has."""
    self._files, self._found = files, found
    self._settings = dict(crop=size, background=colour)
    counts = [
      (file, group, count) for file, all in enumerate(groups) for group, count in enumerate(all)
    ]
    self._groups = np.array(counts, np.int64).reshape(-1, 3)
    self._ends = np.cumsum(self._groups[:, 2])

  def __len__(self):
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, number) -> pictures.Record:
    which = int(np.searchsorted(self._ends, number, 'right'))
    file, group, count = map(int, self._groups[which])
    row = int(number) - int(self._ends[which]) + count
    part, found = self._files[file], self._found[file]
    name = f'{part.name}, group {group}, row {row}'
    load = functools.partial(_loaded, part, group, row, found)
    return pictures.Record(name, load, **self._settings)


def _loaded(part: records.Part, group: int, row: int, found: fields.Fields):
  """(name of an array -> its file, the caption) of a row."""
  columns = tuple(dict.fromkeys((*found.arrays.values(), *found.captions)))
  with images.decoding():
    table = _batch(part, group) if _is_arrow(part) else _row_group(part, group, columns)
    (record,) = table.slice(row, 1).select(list(columns)).to_pylist()
  return fields.read(part.path, record, found, part.folder)


def _pyarrow():
  try:
    import pyarrow.parquet
  except ImportError as error:
    raise records.missing('pyarrow', 'parquet', 'The source parquet') from error
  return pyarrow


def _is_arrow(part: records.Part) -> bool:
  return part.path.endswith('.arrow')


@functools.lru_cache(4096)
def _metadata(part: records.Part):
  """What the end of a Parquet file says of it."""
  with places.seekable(part.path) as file:
    return _pyarrow().parquet.read_metadata(file)


@functools.lru_cache(4096)
def _batches(part: records.Part):
  """The batches of an Arrow file, of either of its two kinds, mapped into memory."""
  pyarrow = _pyarrow()
  if places.is_url(part.path):
    raise UserError(f'{part.path}: Arrow files are mapped into memory; copy it to this machine.')
  try:
    reader = pyarrow.ipc.open_file(pyarrow.memory_map(part.path))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]
  except pyarrow.ArrowInvalid:
    return list(pyarrow.ipc.open_stream(pyarrow.memory_map(part.path)))


def _groups(part: records.Part) -> list[int]:
  """How many rows each group of a file has.

  Raises:
    UserError: it cannot be read.
  """
  try:
    if _is_arrow(part):
      return [batch.num_rows for batch in _batches(part)]
    metadata = _metadata(part)
    return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
  except UserError:
    raise
  except (OSError, ValueError, EOFError) as error:
    reason = quoted(images.reason(error), 200)
    raise UserError(
      f'{part.path} cannot be read as {fields.suffix(part.path)}: {reason}.'
    ) from error


def _columns(part: records.Part) -> list[str]:
  if _is_arrow(part):
    return _batches(part)[0].schema.names if _batches(part) else []
  return _metadata(part).schema.to_arrow_schema().names


def _batch(part: records.Part, number: int):
  return _pyarrow().Table.from_batches([_batches(part)[number]])


@cachetools.cached(
  cachetools.LRUCache(pictures.ROOM, getsizeof=lambda table: table.nbytes), lock=threading.Lock()
)
def _row_group(part: records.Part, number: int, columns: tuple[str, ...]):
  with places.seekable(part.path) as file:
    whole = _pyarrow().parquet.ParquetFile(file, metadata=_metadata(part))
    return whole.read_row_group(number, columns=list(columns), use_threads=False)
