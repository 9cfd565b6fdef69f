"""Owns examples encoded ahead by `cdd.prepare`: shards of latents, conditions and text states."""

import bisect
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import grain
import numpy as np
from safetensors.numpy import load, save

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.registry import fits
from cdd.core.words import counted
from cdd.data import images
from cdd.data.mixtures import Mixture, rounded

MANIFEST, EMPTY = 'manifest.json', 'empty.safetensors'
LATENTS, DEVIATION = 'image_latents', 'image_deviation'
CAPTION, ORIGIN = 'caption', 'origin'
TEXT = ('states', 'pooled')  # What the U-Net reads of a prompt (`types.Text`).
PATTERN = 'examples-*.arrayrecord'


class Prepared:
  """`[i] -> dict(image_latents, condition_latents | condition, ..., text, caption, sizes)`.

  `text` holds the float32 arrays of TEXT. `draw` takes the place of a task's.

  Attributes:
    manifest: what manifest.json says: the count, the shards, and what encoded them of what.
    buckets: None, or the examples of each shape as parts, if they have several.
  """

  def __init__(self, folder: Path, sample_posterior: bool):
    self._folder, self._sample = folder, sample_posterior
    self.manifest = manifest(folder)
    count, shards = self.manifest['count'], self.manifest['shards']
    refuse_missing(folder, shards)
    names = [shard(index, shards) for index in range(shards)]
    self._starts = bounds(count, shards)[:-1]
    self._origins = [origin(self.manifest, name) for name in names]
    try:
      self._records = grain.sources.ArrayRecordDataSource([str(folder / name) for name in names])
    except Exception as error:  # ArrayRecord names neither the class of an error nor the file.
      raise UserError(
        f'A shard in {folder} cannot be read: {images.reason(error)}. Delete those that are cut '
        'off, and give the command that made them again.'
      ) from error
    if len(self._records) != count:
      raise UserError(
        f'{folder} holds {len(self._records)} examples, not the {count} of {MANIFEST}.'
      )
    for start in self._starts:  # That all shards are of this manifest.
      self._arrays(start)
    self._empty = self._no_prompt()
    self.buckets = spans(self, self.manifest['buckets']) if 'buckets' in self.manifest else None

  def __len__(self):
    return self.manifest['count']

  def __getitem__(self, index):
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(f'Example {index} is out of range; choose one of 0..{len(self) - 1}.')
    arrays = self._arrays(index)
    caption = arrays.pop(CAPTION).tobytes().decode()
    text = {name: arrays.pop(name).astype(np.float32) for name in TEXT if name in arrays}
    return {name: as_float(array) for name, array in arrays.items()} | dict(
      caption=caption, text=text
    )

  def _arrays(self, index: int) -> dict[str, np.ndarray]:
    """The arrays of a record.

    Raises:
      UserError: its shard is damaged, or of other examples than those of the manifest.
    """
    which = bisect.bisect_right(self._starts, index) - 1
    name = shard(which, len(self._starts))
    try:
      arrays = load(self._records[index])
      found = arrays.pop(ORIGIN).tobytes()
    except Exception as error:  # Of a damaged file, of many classes.
      raise UserError(
        f'Example {index} of {self._folder} cannot be read: {images.reason(error)}. Delete {name} '
        'there, and give the command that made it again.'
      ) from error
    if found != self._origins[which]:
      raise UserError(
        f'{self._folder / name} was not prepared with the {MANIFEST} beside it: it is from another '
        f'folder or under another name, or {MANIFEST} was edited. Prepare into a new folder.'
      )
    return arrays

  def draw(self, example: dict, rng: np.random.Generator) -> dict:
    """The example with the latents of its image, of shape [h, w, c]."""
    deviation = example.pop(DEVIATION)
    if self._sample:
      noise = rng.standard_normal(deviation.shape, np.float32)
      example[LATENTS] = example[LATENTS] + deviation * noise
    return example

  def no_prompt(self, text: str) -> dict[str, dict[str, np.ndarray]]:
    """What the text encoders made of the empty prompt; no other can be read."""
    if text:
      raise UserError(f'{self} holds the states of its own captions alone, not of {text!r}.')
    return dict(self._empty)

  def _no_prompt(self) -> dict[str, np.ndarray]:
    path = self._folder / EMPTY
    try:
      arrays = load(path.read_bytes())
      return {name: arrays[name].astype(np.float32) for name in TEXT if name in arrays}
    except Exception as error:
      raise UserError(
        f'{path} cannot be read: {images.reason(error)}. Give the command that made it again.'
      ) from error

  def __repr__(self):
    return f'prepared({self._folder.name!r})'


class Span:
  """The examples of a source from one number to another."""

  def __init__(self, source, start: int, count: int):
    self._source, self._start, self._count = source, start, count

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    return self._source[self._start + int(index)]


def spans(source, counts: Sequence[int]) -> Mixture:
  """The examples of each shape, of which the first `counts[0]` have the first, and so on."""
  starts = [sum(counts[:n]) for n in range(len(counts))]
  parts = [Span(source, *each) for each in zip(starts, counts, strict=True) if each[1]]
  return Mixture(parts, rounded([len(part) for part in parts]))


def manifest(folder: Path) -> dict:
  """What manifest.json says.

  Raises:
    UserError: there is none that can be read, or its numbers are none.
  """
  path = folder / MANIFEST
  try:
    fields = json.loads(path.read_text())
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(
      f'{folder} holds no prepared examples: {places.missing(path)}. Make them by python -m '
      'cdd.prepare.'
    ) from error
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error
  count, shards = (
    fields.get(name) if isinstance(fields, dict) else None for name in ('count', 'shards')
  )
  if not (fits(count, int) and fits(shards, int) and 1 <= shards <= count):
    raise UserError(
      f'{path} is damaged: it must be an object with whole numbers, 1 <= shards <= count, not '
      f'{shards!r} and {count!r}.'
    )
  counts = fields.get('buckets', [count])
  whole = isinstance(counts, list) and all(fits(n, int) and n >= 0 for n in counts)
  if not whole or sum(counts) != count:
    raise UserError(f'{path} is damaged: its buckets are {counts!r}, not whole numbers of {count}.')
  return fields


def refuse_missing(folder: Path, shards: int) -> None:
  """Refuses a folder that lacks some of its shards; a UserError names the first."""
  there = {path.name for path in folder.glob(PATTERN)}
  first = next((index for index in range(shards) if shard(index, shards) not in there), None)
  if first is not None:
    names = [name for name in there if name.endswith(f'-of-{shards:05d}.arrayrecord')]
    raise UserError(
      f'{folder} lacks {shards - len(names)} of {counted(shards, "shard")}, '
      f'{shard(first, shards)} the first: its preparation has not ended. Give the same command '
      'again to go on with it.'
    )


def bounds(count: int, shards: int) -> list[int]:
  """The first example of each shard, and how many there are in all."""
  return [index * count // shards for index in range(shards + 1)]


def origin(fields: Mapping, name: str) -> bytes:
  """What the records of a shard say of where they are from: its manifest and its name."""
  return hashlib.sha256(f'{json.dumps(fields, sort_keys=True)} {name}'.encode()).digest()[:8]


def shard(index: int, count: int) -> str:
  """The name of a shard's file."""
  return f'examples-{index:05d}-of-{count:05d}.arrayrecord'


def record(arrays: Mapping[str, np.ndarray], caption: str, origin: bytes) -> bytes:
  """An example as a record: a safetensors file, the texts being arrays of their bytes."""
  texts = {CAPTION: caption.encode(), ORIGIN: origin}
  words = {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}
  return save({name: np.ascontiguousarray(a) for name, a in arrays.items()} | words)


def as_float(array: np.ndarray) -> np.ndarray:
  """float32: pixels of 0..255 in 0..1, anything else as it is."""
  return array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)
