"""Owns the refusal of a source that does not have what a task reads."""

from collections.abc import Sequence

from cdd.core.errors import UserError


def refuse_others(needs: Sequence[str], given: Sequence[str], source: str) -> None:
  """Refuses a task that reads what a source does not give.

  Raises:
    UserError: names the array and what the source has.
  """
  for name in needs:
    if name not in given:
      raise UserError(
        f'The task reads {name!r}, which the source {source!r} does not have; it has {[*given]}.'
      )
