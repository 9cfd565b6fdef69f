"""Owns the mapping from torch's keys and layouts to ours: the path is the key but for its leaf."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cdd.core.errors import UserError
from cdd.pretrained import tensors as files

SHOWN = 12  # Tensors that a message lists.
THREADS = 8  # That read at most; each holds a tensor until it is placed.
WEIGHTS = ('kernel', 'scale', 'embedding')  # What torch calls 'weight' on its three kinds of layer.


def torch_key(path: str) -> str:
  """'down_blocks.0.conv1.kernel' -> 'down_blocks.0.conv1.weight'."""
  stem, _, leaf = path.rpartition('.')
  return f'{stem}.weight' if leaf in WEIGHTS else path


def axes(path: str, ndim: int) -> tuple[int, ...]:
  """Those of a tensor in the order that we have them: OIHW -> HWIO, [out, in] -> [in, out]."""
  order = tuple(range(ndim))
  if not path.endswith('.kernel'):
    return order
  return (2, 3, 1, 0) if ndim == 4 else order[::-1]


def to_torch(path: str, array: np.ndarray) -> np.ndarray:
  """A leaf as torch has it, the inverse of `axes`."""
  return array.transpose(np.argsort(axes(path, array.ndim)))


class Torch(NamedTuple):
  """A leaf of ours as torch lays it out; `np.asarray` copies it to the host."""

  path: str
  leaf: Any

  @property
  def shape(self) -> tuple[int, ...]:
    return to_torch(self.path, np.broadcast_to(0, self.leaf.shape)).shape

  @property
  def dtype(self) -> np.dtype:
    return self.leaf.dtype

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.asarray(to_torch(self.path, np.asarray(self.leaf)), dtype)


def to_tensors(params: Mapping[str, Any]) -> dict[str, Torch]:
  """The parameters under torch's keys, in torch's layouts."""
  return {torch_key(path): Torch(path, leaf) for path, leaf in params.items()}


def rename(tensors: Mapping[str, Any], rules: Sequence[tuple[str, str]], where: str) -> dict:
  """Tensors under today's keys; `rules` are patterns of older ones and what replaces them.

  Raises:
    UserError: an old and a new key name the same tensor.
  """
  out = {}
  for key, tensor in tensors.items():
    new = key
    for pattern, replacement in rules:
      new = re.sub(pattern, replacement, new)
    if new in out:
      raise UserError(f'{where} holds {new} twice, once as {key}.')
    out[new] = tensor
  return out


def misfit(problems: Sequence[str], tensors: Mapping[str, Any], where: str) -> str:
  """One line about tensors that do not fit: the first of the problems, and how many more."""
  if any('lora' in key.lower() for key in tensors):
    return f'{where} holds a LoRA, low-rank changes of a model, which are not read here.'
  config = Path(where) if Path(where).is_dir() else Path(where).parent
  what = 'its config.json' if (config / 'config.json').exists() else 'what should be there'
  more = f'; and {len(problems) - SHOWN} more' if len(problems) > SHOWN else ''
  return f'{where} does not fit {what}: ' + '; '.join(sorted(problems)[:SHOWN]) + more + '.'


def convert(
  tensors: Mapping[str, Any],
  shapes: Mapping[str, Any],
  where: str,
  *,
  dtype=np.float32,
  place: Callable[[str, np.ndarray], Any] = lambda path, array: array,
) -> dict[str, Any]:
  """Torch tensors as a flat tree of ours; each is read by one thread, once all are known to fit.

  Args:
    tensors: arrays, or tensors of a file.
    shapes: our paths, with leaves that have a shape.
    where: the file, for messages.
    dtype: what to cast to; None keeps what a tensor has.
    place: (path, array) -> what to put in its place, as an array on devices; threads call it.

  Raises:
    UserError: lists missing, unexpected and mis-shaped tensors, or names one that holds values
      that are not finite.
  """
  keys = {torch_key(path): path for path in shapes}
  problems = [f'missing {key}' for key in keys if key not in tensors]
  problems += [f'unexpected {key}' for key in tensors if key not in keys]
  for key in keys.keys() & tensors.keys():
    shape, expected = tuple(tensors[key].shape), Torch(keys[key], shapes[keys[key]]).shape
    if shape != expected:
      problems.append(f'{key} has shape {shape}, not {expected}')
    elif not jnp.issubdtype(tensors[key].dtype, jnp.floating):
      problems.append(f'{key} is {tensors[key].dtype}, not floating')
  if problems:
    raise UserError(misfit(problems, tensors, where))

  def read(key: str, path: str):
    tensor = tensors[key]
    kind = tensor.dtype if dtype is None else dtype
    order = axes(path, len(tensor.shape))
    return place(path, files.arranged(tensor, order, kind, f'{where}: {key}'))

  with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), THREADS)) as pool:
    return dict(zip(keys.values(), pool.map(read, keys, keys.values()), strict=True))
