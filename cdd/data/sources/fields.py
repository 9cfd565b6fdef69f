"""Owns which fields of a record (columns, members of a shard) hold an example's arrays and text."""

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.words import quoted
from cdd.data import images
from cdd.data.arrays import ARRAYS, File
from cdd.data.sources import captions, pictures, tables

IMAGES = ('file_name', 'filename', 'file', 'image', 'image_name', 'path')  # Before its other names.
ENDS = ('', '_file_name', '_filename', '_path')


class Fields(NamedTuple):
  """Name of an array -> its field; the fields of captions, of which the first filled is read."""

  arrays: Mapping[str, str]
  captions: Sequence[str]


def checked(columns: Any) -> dict[str, str]:
  """The setting `columns` as a dict: name of an array -> its field.

  Raises:
    UserError: it is no such dict.
  """
  try:
    columns = {str(name): str(column) for name, column in dict(columns or {}).items()}
  except (TypeError, ValueError) as error:
    said = f"columns is {columns!r}; it must be as dict(depth='my_column')."
    raise UserError(said) from error
  unknown = [name for name in columns if name not in ARRAYS]
  if unknown:
    raise UserError(f'Unknown array {unknown[0]!r} in columns; choose one of {sorted(ARRAYS)}.')
  return columns


def of_arrays(
  where: object, there: Sequence[str], needs: Sequence[str], chosen: Mapping[str, str]
) -> dict[str, str]:
  """Name of an array that is read -> its field; those that have none are left out.

  Args:
    where: what messages call the place of the fields.
    there: all fields.
    chosen: as `checked` gives it.

  Raises:
    UserError: a field that is chosen is not there.
  """
  for name, column in chosen.items():
    if column not in there:
      raise UserError(
        f'{where} has no column {column!r} (columns[{name!r}]); choose one of '
        f'{quoted([*there], 300)}.'
      )
  found = dict(chosen)
  for name in ('image', *needs):
    column = tables.first(there, names(name))
    if name not in found and column is not None:
      found[name] = column
  return found


def names(array: str) -> list[str]:
  """What an array's field may be called, the first coming first."""
  found = [name + end for name in ARRAYS[array].names for end in ENDS]
  return [*IMAGES, *found] if array == 'image' else found


def of_records(
  where: object,
  there: Sequence[str],
  needs: Sequence[str],
  *,
  columns: Mapping[str, str] | None,
  caption_column: str | None,
) -> Fields:
  """The fields of records that all have the same ones.

  Raises:
    UserError: there is none for what is needed, or none that is set.
  """
  chosen = checked(columns)
  found = of_arrays(where, there, needs, chosen)
  for name in ('image', *needs):
    if name not in found:
      raise UserError(lacks(where, name, there))
  texts = captions.columns(where, there, needs, caption_column, taken=list(found.values()))
  return Fields(found, texts or ())


def lacks(where: object, array: str, there: Sequence[str]) -> str:
  """The message of records without an array."""
  known = quoted([*ARRAYS[array].names], 300)
  return (
    f'{where}: the task reads {array!r}; none of its columns is one of {known}, it has '
    f"{quoted([*there], 300)}; data.source.columns=dict({array}='...') names one."
  )


def read(where: str, record: Mapping[str, Any], fields: Fields, folder: places.Place):
  """(name of an array -> its file, the caption) of a record.

  Args:
    folder: where the paths in it start.

  Raises:
    images.Unreadable: an array is missing, or is nothing that can be a file.
  """
  files = {}
  for name, field in fields.arrays.items():
    with pictures.naming(name):
      files[name] = file(record.get(field), folder)
  texts = {field: _text(record.get(field)) for field in fields.captions}
  return files, captions.of(where, texts, fields.captions)


def file(value: Any, folder: places.Place) -> File:
  """A file as records have it: bytes, {bytes, path}, a path, or an array of numbers.

  Raises:
    images.Unreadable: it is none of these, or the path leaves the folder.
  """
  if isinstance(value, Mapping) and {*value} & {'bytes', 'path'}:
    value = value.get('bytes') or value.get('path')
  if value is None:
    raise images.Unreadable('it is not there')
  if isinstance(value, bytes | bytearray | memoryview):
    return bytes(value)
  if isinstance(value, str):
    if tables.leaves(value):
      raise images.Unreadable(f'it is the path {quoted(value)}, which is not below the folder')
    return places.joined(folder, value)
  if isinstance(value, list | np.ndarray):
    try:
      array = np.asarray(value)
    except ValueError as error:
      raise images.Unreadable('it is a list of rows of different lengths') from error
    if array.dtype.kind in 'biuf' and array.ndim in (2, 3) and array.size:
      return array
    raise images.Unreadable(f'it is an array of {array.dtype} of shape {array.shape}')
  raise images.Unreadable(f'it is {quoted(type(value).__name__)}; it must be an encoded image')


def _text(value: Any) -> Any:
  """A caption as records have it, without arrays and bytes."""
  if isinstance(value, np.ndarray):
    value = value.tolist()
  if isinstance(value, list):
    return [_text(each) for each in value]
  return value.decode('utf-8', 'replace') if isinstance(value, bytes) else value


def suffix(name: str) -> str:
  """The last suffix of a name, in lower case."""
  return posixpath.splitext(name)[1].lower()
