"""Owns the one way a config names code: dict(name=..., **settings) -> the bound function."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cdd.core.errors import UserError


def choose(table: Mapping[str, Any], name: str, kind: str) -> Any:
  """The entry called `name`; a UserError naming the choices if there is none."""
  if name not in table:
    raise UserError(f'Unknown {kind} {name!r}; choose one of {sorted(table)}.')
  return table[name]


def bind(table: Mapping[str, Callable], spec: Mapping[str, Any], kind: str) -> Callable:
  """Binds the keyword settings of `spec` to the function that it names.

  Args:
    table: name -> function; its settings are keyword-only.
    spec: `dict(name='ddim', eta=0.0)`, as configs write it.
    kind: what the table holds, for messages ('sampler').

  Raises:
    UserError: an unknown name, or a setting that the function does not take.
  """
  settings = dict(spec)
  name = settings.pop('name')
  function = choose(table, name, kind)
  accepted = [
    p.name
    for p in inspect.signature(function).parameters.values()
    if p.kind is inspect.Parameter.KEYWORD_ONLY
  ]
  for key in settings:
    if key not in accepted:
      raise UserError(f'Unknown setting {key!r} of {kind} {name!r}; choose from {accepted}.')
  return functools.partial(function, **settings)
