"""Owns what a workdir says of its config: written once, compared when a run goes on."""

import itertools
import json
from pathlib import Path

from cdd.core import files
from cdd.core.errors import UserError
from cdd.training import checkpoint, meter, writer

# What may change between a run and its resumption: how long it is, how it is shown, where and by
# what it is computed, how many examples an update sees, and how often parts of them are left out.
# Anything else would make it another run.
FREE = (
  'evaluation',
  'log',
  'steps',
  'accumulate',
  'data.batch_size',
  'data.source.made_of',
  'data.caption_dropout',
  'data.condition_dropout',
  'data.joint_dropout',
  'data.workers',
  'data.threads',
  'model.remat',
  'model.saved',
  'mesh',
  'sharding',
)


def as_json(config) -> dict:
  """The config as JSON has it: tuples are lists."""
  return json.loads(config.to_json_best_effort())


def write(config, workdir: Path) -> None:
  """Writes config.json."""
  files.write_json(workdir / 'config.json', as_json(config))


def check(config, workdir: Path) -> str:
  """Refuses a workdir that cannot be written, or that belongs to a run with another config.

  Returns:
    What may differ and does, in words: 'steps=800 (was 500)'; empty if nothing does.

  Raises:
    UserError: names the reason, or the fields that differ.
  """
  if reason := files.unwritable(workdir):
    raise UserError(f'The workdir {workdir} cannot be written: {reason}.')
  path, last = workdir / 'config.json', checkpoint.newest(workdir / 'checkpoints')
  if not path.exists() or only_tried(workdir):
    return ''
  try:
    before = dict(json.loads(path.read_text()))
  except (OSError, ValueError, TypeError) as error:
    raise UserError(f'{path} cannot be read: {error}. Give another --workdir.') from error
  changed = list(differences(before, as_json(config)))
  refuse([each for each in changed if not is_free(each[0])], workdir)
  if last is not None and last > config.steps:
    raise UserError(
      f'{workdir} is at step {last} already, past config.steps={config.steps}. Give '
      f'--config.steps={last} or more, or another --workdir.'
    )
  return ', '.join(f'{key}={new!r} (was {old!r})' for key, old, new in changed)


def only_tried(workdir: Path) -> bool:
  """Whether all runs there ended before their first logged update: nothing of them is lost."""
  made = any((workdir / name).exists() for name in ('export', 'metrics.json'))
  made = made or checkpoint.newest(workdir / 'checkpoints') is not None
  return (workdir / meter.NAME).exists() and not made and not writer.read(workdir / 'log.jsonl')


def is_free(key: str) -> bool:
  """Whether a field may change when a run is resumed."""
  return any(key == free or key.startswith(f'{free}.') for free in FREE)


def refuse(changed: list[tuple], workdir: Path) -> None:
  """Refuses to resume a run with other values of these (field, old, new), if there are any."""
  if not changed:
    return
  shown = [f'{key}: {old!r} there, {new!r} now' for key, old, new in changed[:6]]
  shown += [f'and {len(changed) - 6} more'] if len(changed) > 6 else []
  key, old, _ = changed[0]
  raise UserError(
    f'{workdir} belongs to a run with another config ({"; ".join(shown)}). Set what differs back, '
    f'as with --config.{key}={old}, or give another --workdir, such as {unused(workdir)}.'
  )


def unused(workdir: Path) -> Path:
  """The first of NAME_2, NAME_3, ... that is not there."""
  names = (workdir.with_name(f'{workdir.name}_{number}') for number in itertools.count(2))
  return next(path for path in names if not path.exists())


def differences(old, new, prefix=''):
  """Yields (path, old, new) for every field in which two nested dicts differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted({*old, *new}):
      yield from differences(old.get(key), new.get(key), f'{prefix}.{key}' if prefix else key)
  elif old != new:
    yield prefix, old, new
