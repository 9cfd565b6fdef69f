"""Owns which fields of a row are its caption: one text, or several of equal rank."""

from collections.abc import Mapping, Sequence
from typing import Any

from cdd.core.errors import UserError
from cdd.core.words import quoted
from cdd.data.sources import tables

COLUMNS = ('text', 'caption', 'captions', 'prompt', 'description', 'additional_feature')
# What is to be done to an image, for tasks that read what became of it; before all captions.
EDITS = ('edit_prompt', 'edit_instruction', 'instruction', 'edit')


def known(needs: Sequence[str]) -> tuple[str, ...]:
  """The columns that may hold captions, the first coming first, for the arrays that are read."""
  return (*EDITS, *COLUMNS) if 'edited_image' in needs else COLUMNS


def columns(
  where: object,
  there: Sequence[str],
  needs: Sequence[str],
  setting: str | None,
  taken: Sequence[str] = (),
) -> list[str] | None:
  """The columns to look for captions in; None if there is none of them.

  Args:
    where: what messages call the place of the columns.
    there: all columns.
    setting: the only column to read; '' for no captions; None for those of `known`.
    taken: columns that hold arrays.

  Raises:
    UserError: there is no such column.
  """
  if setting is None:
    found = [tables.first(there, [name]) for name in known(needs)]
    return [name for name in found if name not in (None, *taken)] or None
  if setting and setting not in there:
    raise UserError(
      f'{where} has no column {setting!r} (caption_column); choose one of {quoted([*there], 300)}.'
    )
  return [setting] if setting else []


def of(where: object, fields: Mapping[str, Any], columns: Sequence[str]) -> str | tuple[str, ...]:
  """The caption of a row, or several: of the first column that has any; empty if none has.

  Raises:
    UserError: a field is neither text nor a list of texts.
  """
  for column in columns:
    value = fields.get(column)
    texts = [text for text in (value if isinstance(value, list) else [value]) if text is not None]
    for text in texts:
      if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise UserError(
          f'{where}: {column!r} is {tables.shown(text)}; it must be a text, a list of texts or '
          'null.'
        )
    if found := tuple(text for text in (tables.sound(str(text)).strip() for text in texts) if text):
      return found if len(found) > 1 else found[0]
  return ''
