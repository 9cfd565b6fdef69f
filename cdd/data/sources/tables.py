"""Owns the rows of a metadata file: .jsonl, .csv or .parquet; mistakes name the file and line."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.places import Place
from cdd.core.words import counted, quoted
from cdd.data import images


class Record(NamedTuple):
  """A row of a metadata file; `where` names its file and line."""

  where: str
  fields: dict[str, Any]


def records(path: Place) -> list[Record]:
  """The rows of a file, by its suffix.

  Raises:
    UserError: it cannot be read or has no rows; or names the line and what is wrong in it.
  """
  readers = {'.csv': _csv, '.parquet': _parquet}
  found = list(readers.get(PurePosixPath(str(path)).suffix, _jsonl)(path))
  if not found:
    raise UserError(f'{path} has no rows; each names an image, as in {{"file_name": "a.png"}}.')
  return found


def columns(rows: Sequence[Record]) -> list[str]:
  """The names of all fields, in the order of their first rows."""
  return list(dict.fromkeys(name for row in rows for name in row.fields))


def first(columns: Sequence[str], known: Sequence[str]) -> str | None:
  """The column that is called by the first of the known names, whatever its case."""
  by_name = {name.strip().lower(): name for name in reversed(columns)}
  return next((by_name[name] for name in known if name in by_name), None)


def text(path: Place) -> str:
  """The text of a file, without its byte-order mark; lines end in newlines alone.

  Raises:
    UserError: it cannot be read, or is not UTF-8.
  """
  try:
    whole = places.read(path).decode('utf-8-sig')
  except UnicodeDecodeError as error:
    where = f'byte {error.start} is {error.object[error.start]:#04x}'
    raise UserError(f'{path} is not UTF-8 ({where}); save it as UTF-8.') from error
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}.') from error
  return whole.replace('\r\n', '\n').replace('\r', '\n')


def path_below(record: Record, column: str, required: bool = True) -> str | None:
  """The path in a field, which must lie in the folder of the file; None if it may be missing.

  Raises:
    UserError: it is missing and required, no text, or leaves the folder.
  """
  name = record.fields.get(column)
  if not required and name in (None, ''):
    return None
  if column not in record.fields:
    raise UserError(
      f'{record.where}: {column!r} is missing; there are {quoted(list(record.fields), 300)}.'
    )
  if not isinstance(name, str) or not name.strip():
    raise UserError(f'{record.where}: {column!r} is {shown(name)}; it must name an image file.')
  if leaves(name):
    raise UserError(
      f'{record.where}: {column!r} is {shown(name)}; it must be a path below the folder, without ..'
    )
  return sound(name)


def leaves(name: str) -> bool:
  """Whether a path is absolute or has .. in it, in the ways of Windows too."""
  path, windows = PurePosixPath(name), PureWindowsPath(name)
  parts = (*path.parts, *windows.parts)
  return path.is_absolute() or bool(windows.drive or windows.root) or '..' in parts


def sound(text: str) -> str:
  """A text that is valid Unicode: JSON can spell half of a surrogate pair, which becomes '?'."""
  return text.encode('utf-8', 'replace').decode()


def shown(value: Any) -> str:
  """The beginning of a value, as JSON writes it."""
  try:
    return quoted(json.dumps(value, ensure_ascii=False))
  except RecursionError:  # Brackets that could just be read may be too deep to be written.
    return 'a deeply nested value'
  except TypeError:
    return quoted(value)


def parsed(line: str, where: str) -> dict[str, Any]:
  """The object that a text spells in JSON.

  Raises:
    UserError: it is no JSON, or no object.
  """
  try:
    fields = json.loads(line)
  except json.JSONDecodeError as error:
    reason = f'{error.msg.rstrip(":")} at column {error.colno}'
    raise UserError(f'{where} is not JSON: {reason} of {quoted(line.strip())}.') from error
  except (ValueError, RecursionError) as error:  # A number of thousands of digits; deep brackets.
    raise UserError(f'{where} cannot be read as JSON: {quoted(line.strip())}.') from error
  if not isinstance(fields, dict):
    raise UserError(
      f'{where}: a row is an object, as {{"file_name": "a.png", "text": "a dog"}}, not '
      f'{quoted(line.strip())}.'
    )
  return fields


def _jsonl(path: Place) -> Iterator[Record]:
  """The objects of a file of one object per line."""
  # Not splitlines: JSON allows U+2028 and the like in a text.
  for number, line in enumerate(text(path).split('\n'), 1):
    if line.strip():
      where = f'{path}, line {number}'
      yield Record(where, parsed(line, where))


def _csv(path: Place) -> Iterator[Record]:
  """The rows of a table whose first line names its columns; comma, semicolon, tab or | between."""
  lines = text(path).lstrip('\n')
  delimiter = max(',;\t|', key=lines.partition('\n')[0].count)
  reader = csv.reader(io.StringIO(lines), delimiter=delimiter, strict=True)
  columns = None
  try:
    for cells in reader:
      where = f'{path}, line {reader.line_num}'
      cells = [cell.strip() for cell in cells]
      if not any(cells):
        continue
      if columns is None:
        columns = cells
        continue
      if any(cells[len(columns) :]):
        raise UserError(
          f'{where}: {len(cells)} values for {counted(len(columns), "column")}, '
          f'{quoted(columns, 300)}; put a text that contains {delimiter!r} in double quotes.'
        )
      yield Record(where, dict(zip(columns, cells, strict=False)))
  except csv.Error as error:
    raise UserError(
      f'{path}, line {reader.line_num}: {quoted(error)}; is a quote missing?'
    ) from error


def _parquet(path: Place) -> Iterator[Record]:
  """The rows of a Parquet file."""
  try:
    import pyarrow.parquet
  except ImportError as error:
    raise UserError(f"{path} needs the package pyarrow: pip install 'cdd-jax[parquet]'.") from error
  try:
    rows = pyarrow.parquet.read_table(places.opened(path)).to_pylist()
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(f'{path} cannot be read: {quoted(images.reason(error), 200)}.') from error
  for number, fields in enumerate(rows):
    yield Record(f'{path}, row {number}', fields)
