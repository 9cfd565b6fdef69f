"""Owns the captions of an image folder: a metadata file's, or the text files' beside the images."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from cdd.core.errors import UserError
from cdd.core.words import counted, quoted

METADATA = ('metadata.jsonl', 'metadata.csv', 'captions.jsonl', 'captions.csv')  # First come first.
NAMES = ('file_name', 'filename', 'file', 'image', 'image_name', 'path')
COLUMNS = ('text', 'caption', 'captions', 'prompt', 'description', 'additional_feature')
BESIDE = ('.txt', '.caption')
SPLIT = 'split'
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')


class Row(NamedTuple):
  """An image of a folder: its path below the folder; its caption, or several of equal rank."""

  name: str
  caption: str | Sequence[str] = ''


class Record(NamedTuple):
  """A row of a metadata file; `where` names its file and line."""

  where: str
  fields: dict[str, Any]


def listing(folder: Path, split: str | None = None, column: str | None = None) -> list[Row]:
  """The images of a folder, with their captions.

  Args:
    split: keeps the rows of the metadata of this split alone.
    column: the column of the metadata that holds the captions; '' for none. If None, a row's
      caption is the first of COLUMNS that it fills; where the metadata has none of these, and where
      there is no metadata, captions are in the files of BESIDE.

  Raises:
    UserError: names the file, the line and what is wrong in it, or the columns to choose from.
  """
  path = next((folder / name for name in METADATA if os.path.isfile(folder / name)), None)
  if path is None:
    for setting, value in (('split', split), ('caption_column', column)):
      if value:
        raise UserError(f'{folder / METADATA[0]} is missing, and {setting}={value!r} is in it.')
    return [Row(name, '' if column == '' else _beside(folder / name)) for name in _images(folder)]
  records = list((_csv if path.suffix == '.csv' else _jsonl)(path))
  if not records:
    raise UserError(f'{path} has no rows; each names an image, as in {{"file_name": "a.png"}}.')
  columns = list(dict.fromkeys(name for record in records for name in record.fields))
  name_of = _first(columns, NAMES)
  if name_of is None:
    raise UserError(
      f"{path}: none of its columns is 'file_name'; there are {quoted(columns, 300)}."
    )
  rows = [(record, Row(_inside(record, name_of))) for record in _of_split(path, records, split)]
  read = _columns(path, columns, column, name_of)
  if read is None:
    return _all_beside(path, [row for _, row in rows], columns, name_of)
  return [row._replace(caption=_caption(record, read)) for record, row in rows]


def _all_beside(path: Path, rows: list[Row], columns: list[str], name_of: str) -> list[Row]:
  """Rows of a metadata file without captions, with those of the files beside the images."""
  rows = [row._replace(caption=_beside(path.parent / row.name)) for row in rows]
  others = [name for name in columns if name not in (name_of, SPLIT)]
  if others and not any(row.caption for row in rows):
    raise UserError(
      f'{path}: none of its columns is one of {list(COLUMNS)}; set data.source.caption_column '
      f"to one of {quoted(others, 300)}, or to '' to train without captions."
    )
  return rows


def _images(folder: Path) -> list[str]:
  try:
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
  except OSError as error:
    raise UserError(f'The image folder {folder} cannot be read: {error.strerror}.') from error


def _beside(image: Path) -> str:
  """The caption in a text file beside an image; empty if there is none."""
  paths = [image.with_suffix(suffix) for suffix in BESIDE] if image.name else []
  texts = (_text(path).strip() for path in paths if os.path.isfile(path))
  return next((text for text in texts if text), '')


def _text(path: Path) -> str:
  """The text of a file, without its byte-order mark; lines end in newlines alone."""
  try:
    return path.read_text('utf-8-sig')
  except UnicodeDecodeError as error:
    where = f'byte {error.start} is {error.object[error.start]:#04x}'
    raise UserError(f'{path} is not UTF-8 ({where}); save it as UTF-8.') from error
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}.') from error


def _jsonl(path: Path) -> Iterator[Record]:
  """The objects of a file of one object per line."""
  # Not splitlines: JSON allows U+2028 and the like in a text.
  for number, line in enumerate(_text(path).split('\n'), 1):
    if not line.strip():
      continue
    where = f'{path}, line {number}'
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
    yield Record(where, fields)


def _csv(path: Path) -> Iterator[Record]:
  """The rows of a table whose first line names its columns; comma, semicolon, tab or | between."""
  text = _text(path).lstrip('\n')
  delimiter = max(',;\t|', key=text.partition('\n')[0].count)
  reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
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


def _first(columns: Sequence[str], known: Sequence[str]) -> str | None:
  """The column that is called by the first of the known names, whatever its case."""
  by_name = {name.strip().lower(): name for name in reversed(columns)}
  return next((by_name[name] for name in known if name in by_name), None)


def _columns(path: Path, columns: list[str], column: str | None, name_of: str) -> list[str] | None:
  """The columns to look for captions in; None if the metadata has none."""
  if column is None:
    known = [_first(columns, [name]) for name in COLUMNS]
    return [name for name in known if name not in (None, name_of)] or None
  if column and column not in columns:
    raise UserError(
      f'{path} has no column {column!r} (caption_column); choose one of {quoted(columns, 300)}.'
    )
  return [column] if column else []


def _of_split(path: Path, records: list[Record], split: str | None) -> list[Record]:
  if split is None:
    return records
  kept = [record for record in records if record.fields.get(SPLIT) == split]
  if not kept:
    there = sorted({str(record.fields[SPLIT]) for record in records if SPLIT in record.fields})
    raise UserError(f'No image of split {split!r} in {path}; choose one of {quoted(there, 300)}.')
  return kept


def _inside(record: Record, column: str) -> str:
  """The path of a row's image, which must lie in the folder."""
  if column not in record.fields:
    raise UserError(
      f'{record.where}: {column!r} is missing; there are {quoted(list(record.fields), 300)}.'
    )
  name = record.fields[column]
  if not isinstance(name, str) or not name.strip():
    raise UserError(f'{record.where}: {column!r} is {_shown(name)}; it must name an image file.')
  path, windows = PurePosixPath(name), PureWindowsPath(name)
  if path.is_absolute() or windows.drive or windows.root or '..' in (*path.parts, *windows.parts):
    raise UserError(
      f'{record.where}: {column!r} is {_shown(name)}; it must be a path below the '
      'folder, without ..'
    )
  return _sound(name)


def _caption(record: Record, columns: Sequence[str]) -> str | tuple[str, ...]:
  """The caption of a row, or several: of the first column that has any; empty if none has."""
  for column in columns:
    value = record.fields.get(column)
    texts = [text for text in (value if isinstance(value, list) else [value]) if text is not None]
    for text in texts:
      if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        shown = _shown(text)
        raise UserError(
          f'{record.where}: {column!r} is {shown}; it must be a text, a list of texts or null.'
        )
    if found := tuple(text for text in (_sound(str(text)).strip() for text in texts) if text):
      return found if len(found) > 1 else found[0]
  return ''


def _sound(text: str) -> str:
  """A text that is valid Unicode: JSON can spell half of a surrogate pair, which becomes '?'."""
  return text.encode('utf-8', 'replace').decode()


def _shown(value: Any) -> str:
  """The beginning of a value, as JSON writes it."""
  try:
    return quoted(json.dumps(value, ensure_ascii=False))
  except RecursionError:  # Brackets that could just be read may be too deep to be written.
    return 'a deeply nested value'
