"""Owns WebDataset's tar shards as a source of random crops: a sample is read by its offset."""

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cdd.core.errors import UserError
from cdd.core.words import quoted
from cdd.data import arrays, images
from cdd.data.sources import captions, fields, pictures, records, shards, tables
from cdd.data.sources.beside import NUMBERS, SUFFIXES
from cdd.data.sources.needs import refuse_others


def webdataset(
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
  """Random crops of the images in tar shards; the members of a sample share their name's beginning.

  0001.jpg (or .png, .webp, ...) is the image of the sample 0001, 0001.depth.png or 0001.depth.npy
  its depth, and so on for all arrays; 0001.txt its caption, or a field of the object in 0001.json.
  Where the samples lie in a shard is found once, and kept in ~/.cache/cdd.

  Args:
    path: a shard, a folder of shards, a pattern such as data/{00000..00099}.tar or
      s3://bucket/train-*.tar, or several of these; not compressed.
    size: side of the crops in pixels, or their (height, width).
    caption_column: the field of .json that holds the captions; '' trains without any. If None, .txt
      or .caption, or else the first of 'text', 'caption', 'prompt' and the like that .json fills.
    columns: name of an array ('image', 'depth', ...) -> what stands behind the first dot of its
      members, as dict(depth='midas.png').
    background: what lies behind transparent pixels: a colour's name, #rrggbb, or (r, g, b).
    flip: mirrors half of the crops.
    max_skipped: the share of damaged examples that is skipped; more are an error.

  Raises:
    UserError: no such shard, one that is compressed or no tar file, no array that the task reads in
      the first sample, or a bad setting.
  """
  refuse_others(needs, arrays.ARRAYS, 'webdataset')
  colour, chosen = images.colour(background), fields.checked(columns)
  parts = records.parts(path, ('.tar',))
  with ThreadPoolExecutor(16) as pool:
    spans = list(pool.map(shards.index, parts))
  samples = Samples(parts, spans, needs, chosen, caption_column, size, colour)
  name = records.called('webdataset', parts)
  if len(samples):
    samples.check(name)
  return records.crops(
    samples, name, size=size, seed=seed, length=length, flip=flip, max_skipped=max_skipped
  )


class Samples:
  """The samples of some shards, in their order; each is read when it is drawn."""

  def __init__(self, parts, spans: Sequence[np.ndarray], needs, chosen, column, size, colour):
    """`spans`: of each shard, (the first byte of a sample, the first behind it) for all samples."""
    self._parts, self._spans = parts, np.concatenate(spans)
    self._shard = np.repeat(np.arange(len(parts)), [len(span) for span in spans])
    self._starts = np.cumsum([0, *[len(span) for span in spans]])
    self._reads = needs, chosen, column
    self._settings = dict(crop=size, background=colour)

  def __len__(self):
    return len(self._shard)

  def __getitem__(self, number) -> pictures.Record:
    which = int(self._shard[number])
    part, (start, end) = self._parts[which], map(int, self._spans[number])
    name = f'{part.name}, sample {int(number) - int(self._starts[which])}'
    load = functools.partial(_loaded, part.path, start, end, *self._reads)
    return pictures.Record(name, load, **self._settings)

  def check(self, name: str) -> None:
    """Refuses what the first sample does not have.

    Raises:
      UserError: names the array, and what members there are.
    """
    needs, chosen, column = self._reads
    members = shards.read(self._parts[int(self._shard[0])].path, *map(int, self._spans[0]))
    for array in dict.fromkeys(('image', *needs)):
      if array in chosen and chosen[array] not in members:
        raise UserError(
          f'{name}: its first sample has no .{chosen[array]} (columns[{array!r}]); choose one of '
          f'{quoted(sorted(members), 300)}.'
        )
      if member(members, array, chosen) is None:
        raise UserError(fields.lacks(f'{name}, first sample', array, sorted(members)))
    if column:
      words = _words(name, members)
      if column not in words:
        raise UserError(
          f'{name}: the .json of its first sample has no {column!r} (caption_column); choose one '
          f'of {quoted(sorted(words), 300)}.'
        )


def _loaded(shard: str, start: int, end: int, needs, chosen, column):
  """(name of an array -> its bytes, the caption) of a sample."""
  with images.decoding():
    members = shards.read(shard, start, end)
  found = {}
  for array in dict.fromkeys(('image', *needs)):
    name = member(members, array, chosen)
    if name is None:
      raise images.Unreadable(f'it has no {array}; it has {quoted(sorted(members), 200)}')
    found[array] = members[name]
  return found, _caption(shard, members, needs, column)


def member(members: Mapping[str, bytes], array: str, chosen: Mapping[str, str]) -> str | None:
  """What stands behind the first dot of the member that holds an array."""
  if array in chosen:
    return chosen[array] if chosen[array] in members else None
  ends = (*NUMBERS, *SUFFIXES)
  known = [name + end for name in arrays.ARRAYS[array].names for end in ends]
  known = [end[1:] for end in SUFFIXES] + known if array == 'image' else known
  return tables.first(list(members), known)


def _caption(where: str, members, needs, column: str | None):
  if column == '':
    return ''
  for name in ('txt', 'caption') if column is None else ():
    if text := members.get(name, b'').decode('utf-8-sig', 'replace').strip():
      return text
  try:
    words = _words(where, members)
    return captions.of(where, words, [column] if column else list(captions.known(needs)))
  except UserError as error:
    raise images.Unreadable(quoted(error, 200).rstrip('.')) from error


def _words(where: str, members) -> dict:
  return tables.parsed(members.get('json', b'{}').decode('utf-8-sig', 'replace'), where)
