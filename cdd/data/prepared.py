"""Owns examples encoded ahead by `cdd.prepare`: shards of latents, conditions and text states."""

import json
from collections.abc import Mapping
from pathlib import Path

import grain
import numpy as np
from safetensors.numpy import load, save

from cdd.core.errors import UserError
from cdd.core.words import counted

MANIFEST, EMPTY = 'manifest.json', 'empty.safetensors'
LATENTS, DEVIATION = 'image_latents', 'image_deviation'
CAPTION = 'caption'
TEXT = ('states', 'pooled')  # What the U-Net reads of a prompt (`types.Text`).


class Prepared:
  """`[i] -> dict(image_latents, condition_latents | condition, ..., text, caption, sizes)`.

  `text` holds the float32 arrays of TEXT. `draw` takes the place of a task's.

  Attributes:
    manifest: what manifest.json says: the count, the shards, and what encoded them of what.
  """

  def __init__(self, folder: Path, sample_posterior: bool):
    self._folder, self._sample = folder, sample_posterior
    self.manifest = manifest(folder)
    names = [shard(index, self.manifest['shards']) for index in range(self.manifest['shards'])]
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
      raise UserError(
        f'{folder} lacks {len(missing)} of {counted(len(names), "shard")}, {missing[0]} the first: '
        'its preparation has not ended. Give the same command again to go on with it.'
      )
    self._records = grain.sources.ArrayRecordDataSource([str(folder / name) for name in names])
    if len(self._records) != self.manifest['count']:
      raise UserError(
        f'{folder} holds {len(self._records)} examples, not the {self.manifest["count"]} of '
        f'{MANIFEST}.'
      )

  def __len__(self):
    return self.manifest['count']

  def __getitem__(self, index):
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(f'Example {index} is out of range; choose one of 0..{len(self) - 1}.')
    arrays = load(self._records[index])
    caption = arrays.pop(CAPTION).tobytes().decode()
    text = {name: arrays.pop(name).astype(np.float32) for name in TEXT if name in arrays}
    return {name: as_float(array) for name, array in arrays.items()} | dict(
      caption=caption, text=text
    )

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
    arrays = load((self._folder / EMPTY).read_bytes())
    return {name: arrays[name].astype(np.float32) for name in TEXT if name in arrays}

  def __repr__(self):
    return f'prepared({self._folder.name!r})'


def manifest(folder: Path) -> dict:
  """What manifest.json says.

  Raises:
    UserError: there is none that can be read.
  """
  path = folder / MANIFEST
  try:
    return json.loads(path.read_text())
  except FileNotFoundError as error:
    raise UserError(
      f'{folder} holds no prepared examples: there is no {path}. Make them by python -m '
      'cdd.prepare.'
    ) from error
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error


def shard(index: int, count: int) -> str:
  """The name of a shard's file."""
  return f'examples-{index:05d}-of-{count:05d}.arrayrecord'


def record(arrays: Mapping[str, np.ndarray], caption: str) -> bytes:
  """An example as a record: a safetensors file, the caption being an array of its bytes."""
  words = np.frombuffer(caption.encode(), np.uint8)
  return save({name: np.ascontiguousarray(a) for name, a in arrays.items()} | {CAPTION: words})


def as_float(array: np.ndarray) -> np.ndarray:
  """float32: pixels of 0..255 in 0..1, anything else as it is."""
  return array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)
