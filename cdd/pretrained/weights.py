"""Owns where a component's weights lie in its folder: one file or shards, plain or a variant."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cdd.core import files
from cdd.core.errors import UserError
from cdd.pretrained import tensors
from cdd.pretrained.tensors import Stored

PICKLES = ('.bin', '.ckpt', '.pt', '.pth')
SHARD = 10 * 2**30  # Bytes of a file, diffusers' own limit.


def read(folder: Path, stem: str, variant: str | None = None) -> dict[str, Stored]:
  """The tensors of `stem`.safetensors, or of the shards that its index names.

  Raises:
    UserError: there is neither, or a file is broken; pickles are not read.
  """
  name, index = file_names(stem, variant)
  if (folder / name).exists():
    return tensors.read(folder / name)
  if (folder / index).exists():
    return _shards(folder / index)
  kinds = ('.safetensors', '.json', *PICKLES)
  present = sorted(p.name for p in folder.iterdir() if p.suffix in kinds and p.stem != 'config')
  message = f'{folder} has no {name}; it has {present or "no weights"}.'
  if any(name.endswith(PICKLES) for name in present):
    message += f' {how_to_convert(folder.parent)}'
  elif any(name.startswith(stem) for name in present):
    message += ' The variant is the word between the stem and the suffix: variant=fp16.'
  raise UserError(message)


def file_names(stem: str, variant: str | None) -> tuple[str, str]:
  """What the one file, and the index of shards, are called."""
  if variant:
    return f'{stem}.{variant}.safetensors', f'{stem}.safetensors.index.{variant}.json'
  return f'{stem}.safetensors', f'{stem}.safetensors.index.json'


def has(folder: Path, stem: str, variant: str | None) -> bool:
  """Whether a folder has a component's weights in a variant."""
  return any((folder / name).exists() for name in file_names(stem, variant))


def how_to_convert(source: Path) -> str:
  """What to do with pickles, which run code when they are read."""
  if source.is_dir():
    load = f'DiffusionPipeline.from_pretrained({str(source)!r}, use_safetensors=False)'
  else:
    load = f'StableDiffusionPipeline.from_single_file({str(source)!r})'
  return (
    'Only safetensors in the diffusers layout are read. With PyTorch and diffusers, and if you '
    f'trust the file, convert it: python -c "from diffusers import *; {load}'
    ".save_pretrained('NEW_FOLDER', safe_serialization=True)\""
  )


def _shards(index: Path) -> dict[str, Stored]:
  """The tensors that an index names, each from the shard where it should be."""
  places = read_json(index).get('weight_map')

  def plain(name):
    return isinstance(name, str) and Path(name).name == name

  if not (isinstance(places, dict) and all(map(plain, places.values()))):
    raise UserError(f'{index} has no weight_map of tensors and the names of their files.')
  names = sorted(set(places.values()))
  if lost := [name for name in names if not (index.parent / name).exists()]:
    raise UserError(f'{index} names {lost}, which {index.parent} does not hold.')
  held = {name: tensors.read(index.parent / name) for name in names}
  if lost := [f'{key} in {name}' for key, name in places.items() if key not in held[name]]:
    raise UserError(f'{index} places tensors where they are not: {"; ".join(lost)}.')
  return {key: tensor for shard in held.values() for key, tensor in shard.items()}


def write(
  folder: Path, stem: str, found: Mapping[str, Any], *, dtype=None, max_shard_size: int = SHARD
) -> None:
  """Writes tensors as `stem`.safetensors, or as shards and their index if they are too large."""

  def width(tensor):
    return np.dtype(dtype or tensor.dtype).itemsize

  sizes = {key: math.prod(tensor.shape) * width(tensor) for key, tensor in found.items()}
  shards, room = [], 0
  for key in found:
    if not shards or sizes[key] > room:
      shards.append({})
      room = max_shard_size
    shards[-1][key] = found[key]
    room -= sizes[key]
  if len(shards) < 2:
    tensors.write(folder / f'{stem}.safetensors', found, dtype)
    return
  places = {}
  for number, shard in enumerate(shards, 1):
    name = f'{stem}-{number:05}-of-{len(shards):05}.safetensors'
    tensors.write(folder / name, shard, dtype)
    places.update(dict.fromkeys(shard, name))
  index = dict(metadata=dict(total_size=sum(sizes.values())), weight_map=places)
  files.write_json(folder / f'{stem}.safetensors.index.json', index)


def read_json(path: Path) -> dict:
  """A JSON object.

  Raises:
    UserError: the file is missing or holds anything else.
  """
  if not path.exists():
    raise UserError(f'{path.parent} has no {path.name}.')
  try:
    fields = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{path} is not JSON: {error}') from error
  if not isinstance(fields, dict):
    raise UserError(f'{path} holds no JSON object.')
  return fields
