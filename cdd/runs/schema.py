"""Owns what the fields of a config have to be, before anything is made of them."""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cdd.core.errors import UserError
from cdd.core.registry import fits, named
from cdd.training.boards import BOARDS


class Field(NamedTuple):
  """What a field has to be.

  Attributes:
    kind: a type that `registry.fits` knows.
    least, most: the range of a number.
    fine: a further check of a value.
    words: what messages call it, if not by its type.
  """

  kind: Any
  least: float | None = None
  most: float | None = None
  fine: Callable[[Any], bool] = lambda value: True
  words: str = ''

  def accepts(self, value: Any) -> bool:
    if not fits(value, self.kind):
      return False
    if value is None or self.least is None:
      return self.fine(value)
    return self.least <= value <= (self.most if self.most is not None else value)

  def described(self) -> str:
    if self.words:
      return self.words
    bounds = '' if self.least is None else f', {self.least} or more'
    return named(self.kind) + (bounds if self.most is None else f', {self.least}..{self.most}')


def whole(least: int, most: int | None = None) -> Field:
  return Field(int, least, most)


def pairs(value) -> bool:
  """Whether it lists (pattern, value) pairs."""
  return all(
    isinstance(one, list | tuple) and len(one) == 2 and type(one[0]) is str for one in value
  )


def counts(value) -> bool:
  return bool(value) and all(fits(one, int) and one >= 1 for one in value)


def scales(value) -> bool:
  numbers = all(fits(one, float) and math.isfinite(one) for one in value)
  return not value or (numbers and len(value) == 2 and value[0] <= value[1])


def names(value) -> bool:
  return all(isinstance(one, str) for one in value)


def is_spec(value) -> bool:
  return isinstance(value, Mapping) and isinstance(value.get('name'), str)


def is_range(value) -> bool:
  """Whether it is None or 'START:STOP' with START < STOP."""
  found = re.fullmatch(r'(\d+):(\d+)', '0:1' if value is None else value)
  return bool(found) and int(found[1]) < int(found[2])


DTYPES = ('float32', 'bfloat16', 'float16')
SHARE = Field(float, 0, 1)
POSITIVE = Field(float, 0)
PAIRS = Field(tuple, fine=pairs, words="a tuple of pairs, ('pattern', value)")
SPEC = Field(object, fine=is_spec, words='dict(name=..., ...)')
SECTION = Field(object, fine=lambda value: isinstance(value, Mapping), words='dict(...)')
# Fields that a config may lack.
OMITTABLE = (
  'initial',
  'prior.vae',
  'method.predictor',
  'method.counts',
  'method.guidance',
  'model.step_channels',
  'model.remat',
  'model.saved',
  'data.cache',
  'data.held_out',
  'data.joint_dropout',
  'data.condition_dropout',
  'log.profile',
  *(f'log.{name}' for name in BOARDS),
  'evaluation.metrics',
  'evaluation.mismatched',
  'mesh.tensor',
  'optimizer.warmup',
  'optimizer.hold',
  'optimizer.weight_decay',
  'optimizer.clip',
  'optimizer.multipliers',
)
COUNTS = Field(tuple, fine=counts, words='a tuple of whole numbers, 1 or more')
OPTIONAL_SECTION = Field(
  object, fine=lambda value: value is None or isinstance(value, Mapping), words='dict(...) or None'
)
# The fields of every config; those of a spec are checked where it is bound (`registry.bind`). A
# section comes before what is in it.
FIELDS = {
  'seed': whole(-(2**31), 2**31 - 1),
  'steps': whole(1),
  'accumulate': whole(1),
  'trainable': PAIRS,
  'sharding': PAIRS,
  'prior': SECTION,
  'prior.path': Field(
    str | None, fine=lambda path: path != '', words="a folder, a hub's id or None"
  ),
  'prior.vae': Field(
    str | None, fine=lambda path: path != '', words="an autoencoder's folder, a hub's id or None"
  ),
  'model': SECTION,
  'model.adapter': SPEC,
  'model.dtype': Field(
    object, fine=DTYPES.__contains__, words="'float32', 'bfloat16' or 'float16'"
  ),
  'model.remat': Field(bool),
  'model.saved': Field(tuple, fine=names, words="a tuple of names, ('attention',)"),
  'model.step_channels': Field(int | None, 2),
  'method': SPEC,
  'method.predictor': SPEC,
  'method.counts': COUNTS,
  'method.guidance': Field(
    tuple, fine=scales, words='the least and the largest guidance scale, (1.0, 8.0), or ()'
  ),
  'initial': Field(str | None),
  'target': SPEC,
  'optimizer': SPEC,
  'optimizer.learning_rate': POSITIVE,
  'optimizer.warmup': whole(0),
  'optimizer.hold': SHARE,
  'optimizer.weight_decay': POSITIVE,
  'optimizer.clip': POSITIVE,
  'optimizer.multipliers': PAIRS,
  'mesh': SECTION,
  'mesh.data': Field(int, -1),
  'mesh.fsdp': Field(int, -1),
  'mesh.tensor': Field(int, -1),
  'data': SECTION,
  'data.source': SPEC,
  'data.held_out': SPEC,
  'data.task': SPEC,
  'data.batch_size': whole(1),
  'data.threads': whole(1),
  'data.workers': whole(0),
  'data.cache': whole(0),
  'data.caption_dropout': SHARE,
  'data.joint_dropout': SHARE,
  'data.condition_dropout': SHARE,
  'log': SECTION,
  'log.every': whole(1),
  'log.samples_every': whole(0),
  'log.checkpoint_every': whole(1),
  'log.keep': whole(1),
  'log.profile': Field(str | None, fine=is_range, words="'START:STOP', two updates, or None"),
  **{f'log.{name}': Field(board.kind, words=board.words) for name, board in BOARDS.items()},
  'evaluation': OPTIONAL_SECTION,
  'evaluation.count': whole(1),
  'evaluation.batch_size': whole(1),
  'evaluation.steps': COUNTS,
  'evaluation.metrics': Field(tuple, fine=bool, words='a tuple of the names of metrics'),
  'evaluation.mismatched': Field(
    object, fine=(None, 'condition', 'text').__contains__, words="'condition', 'text' or None"
  ),
}


def check(fields: Mapping[str, Any]) -> None:
  """Refuses a config with a field that is missing, of another type or out of range.

  Args:
    fields: the config as JSON has it.

  Raises:
    UserError: names the first such field, its value and what it may be.
  """
  for path, field in FIELDS.items():
    section, _, name = path.rpartition('.')
    sections = section.split('.') if section else ()
    within = functools.reduce(lambda tree, key: tree[key], sections, fields)
    if within is None or (name not in within and path in OMITTABLE):
      continue
    if name not in within:
      raise UserError(f'The config has no {path}; it must be {field.described()}.')
    if not field.accepts(within[name]):
      raise UserError(f'config.{path} is {within[name]!r}; it must be {field.described()}.')
  batch, parts = fields['data']['batch_size'], fields['accumulate']
  if batch % parts:
    raise UserError(f'config.accumulate={parts} does not divide config.data.batch_size={batch}.')
