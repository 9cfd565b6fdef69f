"""Owns the one way a config names code: dict(name=..., **settings) -> the bound function."""

import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any

from ml_collections import ConfigDict

from cdd.core.errors import UserError


def choose(table: Mapping[str, Any], name: str, kind: str) -> Any:
  """The entry called `name`; a UserError naming the choices if there is none."""
  if not isinstance(name, str) or name not in table:
    raise UserError(f'Unknown {kind} {plain(name)!r}; choose one of {sorted(table)}.')
  return table[name]


def bind(table: Mapping[str, Callable], spec: Mapping[str, Any], kind: str) -> Callable:
  """Binds the keyword settings of `spec` to the function that it names.

  Args:
    table: name -> function; its settings are keyword-only.
    spec: `dict(name='ddim', eta=0.0)`, as configs write it.
    kind: what the table holds, for messages ('sampler').

  Raises:
    UserError: a spec that is none, an unknown name, a setting that the function does not take, or a
      value of another type than the function's annotation.
  """
  if not isinstance(spec, Mapping | ConfigDict) or 'name' not in spec:
    raise UserError(
      f'The {kind} is {plain(spec)!r}; it must be dict(name=..., ...) with one of {sorted(table)}.'
    )
  settings = dict(spec)
  name = settings.pop('name')
  function = choose(table, name, kind)
  accepted = {
    p.name: p.annotation
    for p in inspect.signature(function).parameters.values()
    if p.kind is inspect.Parameter.KEYWORD_ONLY
  }
  for key, value in settings.items():
    if key not in accepted:
      raise UserError(f'Unknown setting {key!r} of {kind} {name!r}; choose from {[*accepted]}.')
    if not fits(value, accepted[key]):
      raise UserError(
        f'The setting {key!r} of {kind} {name!r} is {plain(value)!r}; it must be '
        f'{named(accepted[key])}.'
      )
  return functools.partial(function, **settings)


def make(table: Mapping[str, Callable], spec: Mapping[str, Any], kind: str, *arguments: Any) -> Any:
  """Calls the factory that a spec names, with its settings.

  Raises:
    UserError: as `bind`, or names a setting that the spec lacks.
  """
  bound = bind(table, spec, kind)
  for setting in inspect.signature(bound).parameters.values():
    keyword = setting.kind is inspect.Parameter.KEYWORD_ONLY
    if keyword and setting.default is setting.empty:
      raise UserError(f'The {kind} {spec["name"]!r} needs the setting {setting.name!r}.')
  return bound(*arguments)


def plain(value: Any) -> Any:
  """A section of a config as a dict, whose text is one line."""
  return value.to_dict() if isinstance(value, ConfigDict) else value


# Types of settings: what a value has to be, and what messages call it.
KINDS = {
  bool: (lambda v: isinstance(v, bool), 'True or False'),
  int: (lambda v: isinstance(v, Integral) and not isinstance(v, bool), 'a whole number'),
  float: (
    lambda v: isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v),
    'a number',
  ),
  str: (lambda v: isinstance(v, str), 'a text'),
  tuple: (lambda v: isinstance(v, list | tuple), 'a tuple'),
  Sequence: (lambda v: isinstance(v, list | tuple), 'a tuple'),
  NoneType: (lambda v: v is None, 'None'),
}


def alternatives(annotation: Any) -> list[tuple[Any, Any]]:
  """The types that an annotation allows, each with that of its items (`Any`: any)."""
  union = typing.get_origin(annotation) in (typing.Union, UnionType)
  kinds = typing.get_args(annotation) if union else (annotation,)
  return [(typing.get_origin(kind) or kind, items(kind)) for kind in kinds]


def items(kind: Any) -> Any:
  """The type of all items of a kind of tuple, such as `Sequence[float]`; `Any` if they differ."""
  found = {each for each in typing.get_args(kind) if each is not Ellipsis}
  return found.pop() if len(found) == 1 else Any


def fits(value: Any, annotation: Any) -> bool:
  """Whether a value is of a type that is annotated; types that are not in KINDS fit anything."""

  def of(kind, item):
    if kind not in KINDS:
      return True
    return KINDS[kind][0](value) and (item is Any or all(fits(each, item) for each in value))

  return any(of(kind, item) for kind, item in alternatives(annotation))


def named(annotation: Any) -> str:
  """'a whole number or None'."""
  return ' or '.join(
    KINDS[kind][1] + ('' if item is Any else f' of which each is {named(item)}')
    for kind, item in alternatives(annotation)
  )
