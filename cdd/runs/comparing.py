"""Owns what is read of runs and evaluations to compare them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cdd.core.errors import UserError
from cdd.methods import METHODS
from cdd.reports import comparison, examples
from cdd.reports.comparison import Run
from cdd.runs.report import label_of
from cdd.training import writer

# Settings of a config that say nothing of the model, its training or its data.
LEFT_OUT = ('name', 'log', 'evaluation')


def compare(folders: Sequence[str], path: Path) -> None:
  """Writes a page about several runs' folders, and about folders that `cdd.evaluate` wrote.

  Raises:
    UserError: there are fewer than two, or one of them is neither.
  """
  if len(folders) < 2:
    raise UserError(f'Two runs or more are compared, and {len(folders)} were given.')
  found = [read(Path(folder), label) for folder, label in zip(folders, named(folders), strict=True)]
  runs = [run for run, _ in found]
  runs = [run._replace(alike=same(runs[0], run)) for run in runs]
  references = next((rows for _, rows in found if rows), [])
  comparison.write(path, runs, references=references, plots=plots(runs), notes=list(notes(runs)))


def named(folders: Sequence[str]) -> list[str]:
  """A label for each folder: its name, with that of the folder around it where names repeat."""
  paths = [Path(folder).resolve() for folder in folders]
  names = [path.name for path in paths]
  longer = [
    f'{path.parent.name}/{path.name}' if names.count(path.name) > 1 else path.name for path in paths
  ]
  if len({*longer}) < len(longer):
    raise UserError(f'The same folder is given twice: {", ".join(map(str, paths))}.')
  return longer


def read(folder: Path, label: str) -> tuple[Run, list[dict]]:
  """A run or an evaluation, and its rows without steps.

  Raises:
    UserError: the folder holds neither.
  """
  if (folder / 'evaluation.json').exists():
    fields = load(folder / 'evaluation.json')
    config = (fields['trained'] or {}) | dict(
      evaluated={k: fields[k] for k in ('settings', 'seed', 'held_out')}
    )
    rows, method, log = fields['rows'], fields['model'], []
  elif (folder / 'config.json').exists() and (folder / 'log.jsonl').exists():
    config, log = load(folder / 'config.json'), writer.read(folder / 'log.jsonl')
    rows = load(folder / 'metrics.json') if (folder / 'metrics.json').exists() else []
    method = label_of(ConfigDict(config))
  else:
    raise UserError(
      f'{folder} is no run (config.json, log.jsonl) and no evaluation (evaluation.json).'
    )
  own_rows = [row for row in rows if row['method'] == method and row['steps']]
  shown = examples.read(folder / 'pictures')
  run = Run(label, own_rows, flat(config), log, shown)
  return run, [row for row in rows if not row['steps']]


def load(path: Path) -> Any:
  """JSON of a file.

  Raises:
    UserError: it is broken.
  """
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise UserError(f'{path} cannot be read: {error}.') from error


def flat(fields: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested fields by their paths, 'data.source.size'."""
  out = {}
  for name, value in fields.items():
    path = f'{prefix}{name}'
    if isinstance(value, Mapping):
      out |= flat(value, f'{path}.')
    elif path.partition('.')[0] not in LEFT_OUT:
      out[path] = value
  return out


def same(first: Run, other: Run) -> bool:
  """Whether two runs were measured on the same examples: as stored, else by their settings."""
  if first.examples and other.examples:
    ours, theirs = first.examples['truth'], other.examples['truth']
    count = min(len(ours), len(theirs))
    # Another computer may decode or render a little differently.
    close = np.abs(ours[:count] - theirs[:count]).mean((1, 2, 3)) < 0.01
    return bool(close.all()) if ours.shape[1:] == theirs.shape[1:] else False
  return held_out(first) == held_out(other)


def held_out(run: Run) -> dict[str, Any]:
  """The settings that choose the held-out examples of a run."""
  parts = ('data.held_out.', 'data.task.')
  return {key: value for key, value in run.fields.items() if key.startswith(parts)}


def notes(runs: Sequence[Run]) -> Iterator[str]:
  """What a reader has to know of single runs."""
  for run in runs:
    if not run.rows:
      yield f'{run.label} has not been measured yet.'
    elif not run.alike:
      yield f'{run.label} was measured on other held-out examples than {runs[0].label}.'
    elif run.rows[0]['count'] != (runs[0].rows or run.rows)[0]['count']:
      yield f'{run.label} was measured on another number of held-out examples than {runs[0].label}.'
  if unseen := [run.label for run in runs if run.rows and not run.examples]:
    yield (
      f'There are no pictures of {", ".join(unseen)}: pictures/examples.npz is missing, which '
      'cdd.evaluate writes.'
    )


def plots(runs: Sequence[Run]) -> list[str]:
  """What the methods of the runs plot, in the order of the first, and the score of the samples."""
  names = {}
  for run in runs:
    method = METHODS.get(run.fields.get('method.name'))
    names |= dict.fromkeys(method.plots if method else ())
  return [*names, 'score']
