"""Owns the refusal of what a config.json asks of a network and ours does not do."""

from collections.abc import Mapping
from typing import Any

from cdd.core.errors import UserError


def refuse(fields: Mapping[str, Any], supported: Mapping[str, tuple], kind: str, more=()) -> None:
  """Checks every field that is given.

  Args:
    fields: those of a config.json.
    supported: field -> the values that are supported, of each of its entries if it is a list.
    kind: what the fields describe, for the message.
    more: further problems, for the same message.

  Raises:
    UserError: lists each field that is not supported, its value, and the choices.
  """
  problems = list(more)
  for name, choices in supported.items():
    value = fields.get(name, choices[0])
    entries = value if isinstance(value, list | tuple) else [value]
    if any(entry not in choices for entry in entries):
      problems.append(f'{name} is {value!r} (supported: {", ".join(map(repr, choices))})')
  if problems:
    raise UserError(f'This {kind} is not one that can be run here: ' + '; '.join(problems) + '.')
