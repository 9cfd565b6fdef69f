"""Owns the error that a user can mend: the command line prints it without a traceback."""

from collections.abc import Sequence


class UserError(ValueError):
  """Bad input; the message names the value, the place and the choices."""


def check_multiple(sides: Sequence[int], unit: int, what: str) -> None:
  """A UserError, with the nearest that would do, if a side is not a multiple of `unit`."""
  if any(side < unit or side % unit for side in sides):
    near = [max(unit, unit * round(side / unit)) for side in sides]
    named, near = (' x '.join(map(str, numbers)) for numbers in (sides, near))
    raise UserError(f'The {what} of {named} pixels has to be a multiple of {unit}; choose {near}.')
