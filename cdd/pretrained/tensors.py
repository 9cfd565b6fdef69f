"""Owns safetensors files, read and written one tensor at a time: no second copy of a checkpoint."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cdd.core.errors import UserError

DTYPES = dict(
  F64=np.float64,
  F32=np.float32,
  F16=np.float16,
  BF16=jnp.bfloat16,
  I64=np.int64,
  I32=np.int32,
  I16=np.int16,
  I8=np.int8,
  U8=np.uint8,
  BOOL=np.bool_,
)
DTYPES = {name: np.dtype(kind) for name, kind in DTYPES.items()}
LONGEST = 10**8  # Bytes of a header, the limit of the format's own reader.


class Stored(NamedTuple):
  """A tensor in a file; `np.asarray` reads it."""

  path: Path
  key: str
  dtype: np.dtype
  shape: tuple[int, ...]
  offset: int

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    size = math.prod(self.shape) * self.dtype.itemsize
    try:
      data = np.fromfile(self.path, np.uint8, size, offset=self.offset)
    except OSError as error:
      raise UserError(f'{self.path} cannot be read: {error}') from error
    if data.size < size:
      raise UserError(f'{self.path} cannot be read: it ends within {self.key}.')
    array = data.view(self.dtype).reshape(self.shape)
    return array if dtype is None else array.astype(dtype, copy=False)


def read(path: Path) -> dict[str, Stored]:
  """The tensors of a file, none of them read yet.

  Raises:
    UserError: the file is missing or cut short, or its header is not one of tensors that lie one
      after the other and fill it.
  """
  path = Path(path)
  try:
    size = path.stat().st_size
    with path.open('rb') as file:
      length = int.from_bytes(file.read(8), 'little')
      if not 2 <= length <= min(LONGEST, size - 8):
        raise UserError(
          f'{path} cannot be read: a header of {length} bytes in a file of {size}; it is cut short '
          'or no safetensors file.'
        )
      entries = json.loads(file.read(length))
  except UserError:
    raise
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error
  if not isinstance(entries, dict):
    raise UserError(f'{path} cannot be read: its header is no JSON object.')
  entries.pop('__metadata__', None)
  found = [_stored(path, key, entry, 8 + length) for key, entry in entries.items()]
  end = 8 + length
  for tensor in sorted(found, key=lambda tensor: (tensor.offset, math.prod(tensor.shape))):
    if tensor.offset != end:
      word = 'overlaps the tensor before it' if tensor.offset < end else 'leaves a gap before it'
      raise UserError(f'{path} cannot be read: {tensor.key} {word}.')
    end += math.prod(tensor.shape) * tensor.dtype.itemsize
    if end > size:
      raise UserError(f'{path} cannot be read: {tensor.key} ends at byte {end} of {size}.')
  if end != size:
    raise UserError(f'{path} cannot be read: {size - end} bytes follow the last tensor.')
  return {tensor.key: tensor for tensor in found}


def _stored(path: Path, key: str, entry, start: int) -> Stored:
  """An entry of a header, once it is sound."""

  def number(value):
    return type(value) is int and value >= 0

  def numbers(value):
    return isinstance(value, list) and all(map(number, value))

  fields = entry if isinstance(entry, dict) else {}
  name, shape, offsets = (fields.get(field) for field in ('dtype', 'shape', 'data_offsets'))
  if not (numbers(shape) and numbers(offsets) and len(offsets) == 2):
    raise UserError(f'{path} cannot be read: the header describes {key} as {str(entry)[:200]}.')
  if name not in DTYPES:
    raise UserError(f'{path}: {key} has dtype {name!r}; choose one of {list(DTYPES)}.')
  needed = math.prod(shape) * DTYPES[name].itemsize
  if offsets[1] - offsets[0] != needed:
    raise UserError(
      f'{path} cannot be read: {key} is {name}{shape}, {needed} bytes, at {offsets[0]} to '
      f'{offsets[1]}.'
    )
  return Stored(path, key, DTYPES[name], tuple(shape), start + offsets[0])


def write(path: Path, tensors: Mapping[str, Any], dtype=None) -> None:
  """Writes arrays, or what has a shape and a dtype and `np.asarray` reads, one by one.

  Args:
    dtype: what to cast to; None keeps what a tensor has.

  Raises:
    UserError: a value is not finite in that dtype.
  """
  codes = {kind: name for name, kind in DTYPES.items()}
  kinds = {key: np.dtype(dtype or tensor.dtype) for key, tensor in tensors.items()}
  # As the format's own writer sorts: every tensor is aligned.
  order = sorted(kinds, key=lambda key: (-kinds[key].itemsize, key))
  header, end = {'__metadata__': {'format': 'pt'}}, 0
  for key in order:
    begin, end = end, end + math.prod(tensors[key].shape) * kinds[key].itemsize
    shape = list(tensors[key].shape)
    header[key] = dict(dtype=codes[kinds[key]], shape=shape, data_offsets=[begin, end])
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  with Path(path).open('wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for key in order:
      array = cast(np.asarray(tensors[key]), kinds[key])
      file.write(finite(array, f'{path}: {key}').reshape(-1).view(np.uint8).data)


def cast(array: np.ndarray, dtype) -> np.ndarray:
  """The array in C order and of the dtype; too large a value becomes infinite."""
  with np.errstate(over='ignore'):
    return np.ascontiguousarray(array, dtype).reshape(array.shape)  # Scalars stay scalars.


def finite(array: np.ndarray, where: str) -> np.ndarray:
  """The array itself.

  Raises:
    UserError: a value is not finite.
  """
  good = np.isfinite(array)
  if not good.all():
    count = int(array.size - good.sum())
    raise UserError(f'{where} has {count} values that are not finite in {array.dtype}.')
  return array
