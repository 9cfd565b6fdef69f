"""Owns safetensors files, read and written one tensor at a time: no second copy of a checkpoint."""

import json
import math
import mmap
from collections.abc import Mapping, Sequence
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
BLOCK = 2**20  # Bytes that are read at a time, and then laid out while a cache holds them,
ROWS = 16  # so many rows at a time: what they become are whole lines of the cache.


class Stored(NamedTuple):
  """A tensor in a file; `np.asarray` reads it."""

  path: Path
  key: str
  dtype: np.dtype
  shape: tuple[int, ...]
  offset: int

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    array = self.rows(slice(None)).reshape(self.shape)
    return array if dtype is None else array.astype(dtype, copy=False)

  def rows(self, rows: slice) -> np.ndarray:
    """Some of its first axis; all of a scalar."""
    shape = self.shape or (1,)
    row, (first, end, _) = math.prod(shape[1:]) * self.dtype.itemsize, rows.indices(shape[0])
    size = (end - first) * row
    try:
      data = np.fromfile(self.path, np.uint8, size, offset=self.offset + first * row)
    except OSError as error:
      raise UserError(f'{self.path} cannot be read: {error}') from error
    if data.size < size:
      raise UserError(f'{self.path} cannot be read: it ends within {self.key}.')
    return data.view(self.dtype).reshape(-1, *shape[1:])


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


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """np.empty, on Linux of pages that are all there at once.

  numpy asks for huge pages, and where a checkpoint in the kernel's cache has filled the memory they
  take the kernel longer to find than all else in loading.
  """
  size = math.prod(shape) * dtype.itemsize
  if size < BLOCK or not hasattr(mmap, 'MAP_POPULATE'):
    return np.empty(shape, dtype)
  flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
  return np.ndarray(shape, dtype, mmap.mmap(-1, size, flags))


def arranged(tensor: Any, axes: Sequence[int], dtype, where: str) -> np.ndarray:
  """A tensor with its axes in this order and of the dtype, in C order; it is never held twice.

  Args:
    tensor: Stored, or an array.

  Raises:
    UserError: a value is not finite in that dtype.
  """
  out = empty(tuple(tensor.shape[axis] for axis in axes), np.dtype(dtype))
  laid = np.atleast_1d(out.transpose(np.argsort(axes)))
  whole = None if isinstance(tensor, Stored) else np.atleast_1d(np.asarray(tensor))
  row = max(math.prod(laid.shape[1:]) * np.dtype(tensor.dtype).itemsize, 1)
  step, bad = max(BLOCK // row // ROWS, 1) * ROWS, 0
  for start in range(0, len(laid), step):
    rows = slice(start, start + step)
    block = cast(tensor.rows(rows) if whole is None else whole[rows], dtype)
    bad += block.size - np.count_nonzero(np.isfinite(block))
    for first in range(0, len(block), ROWS):
      laid[rows][first : first + ROWS] = block[first : first + ROWS]
  if bad:
    raise UserError(f'{where} has {bad} values that are not finite in {out.dtype}.')
  return out


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
