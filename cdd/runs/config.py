"""Owns what a workdir says of its config: written once, compared when a run goes on."""

import json
import os
from pathlib import Path

from cdd.core import files
from cdd.core.errors import UserError

# Sections that may change between a run and its resumption: they do not touch the parameters.
FREE = ('evaluation', 'log')


def as_json(config) -> dict:
  """The config as JSON has it: tuples are lists."""
  return json.loads(config.to_json_best_effort())


def write(config, workdir: Path) -> None:
  """Writes config.json."""
  files.write_json(workdir / 'config.json', as_json(config))


def check(config, workdir: Path) -> None:
  """Refuses a workdir that cannot be written, or that belongs to another config.

  Raises:
    UserError: names the reason, or the fields that differ.
  """
  place = workdir.absolute()
  there = next(path for path in (place, *place.parents) if path.exists())
  if not (there.is_dir() and os.access(there, os.W_OK)):
    reason = 'not writable' if there.is_dir() else 'no folder'
    raise UserError(f'The workdir {workdir} cannot be written: {there} is {reason}.')
  path = workdir / 'config.json'
  if not path.exists():
    return
  try:
    before = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {error}. Give another --workdir.') from error
  differing = [
    f'{key}: {old!r} there, {new!r} now'
    for key, old, new in differences(before, as_json(config))
    if key.split('.')[0] not in FREE
  ]
  if differing:
    raise UserError(
      f'{workdir} belongs to a run with another config ({"; ".join(differing[:6])}). '
      'Give another --workdir, or remove that one.'
    )


def differences(old, new, prefix=''):
  """Yields (path, old, new) for every field in which two nested dicts differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted({*old, *new}):
      yield from differences(old.get(key), new.get(key), f'{prefix}.{key}' if prefix else key)
  elif old != new:
    yield prefix, old, new
