"""Owns the page that compares runs: one self-contained file."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cdd.core import files
from cdd.core.words import quoted
from cdd.metrics import METRICS, of_rows
from cdd.reports import charts, grid, page, table
from cdd.reports.pictures import Picture

SHOWN = 3  # Pictures at most: of the numbers of steps that most runs share.
POINTS = 60  # Of a curve: each is the mean of the rows of the log that it stands for.
SPEED = dict(
  steps_per_second='steps / s',
  images_per_second_per_chip='images / s / chip',
  mfu='MFU',
  data_wait='waiting for data',
  goodput='goodput',
)
NOTE = (
  'Bold: the best of the runs at the same number of steps that were measured on the same held-out '
  'examples, and on as many of them, as the first run.'
)


class Run(NamedTuple):
  """What is compared.

  Attributes:
    label: what the page calls it.
    rows: its measurements, as those of a report, with `steps`.
    fields: of its config, path -> value.
    log: the rows of its log.
    examples: what `examples.read` gives.
    alike: whether its held-out examples are those of the first run.
  """

  label: str
  rows: Sequence[Mapping]
  fields: Mapping[str, Any]
  log: Sequence[Mapping] = ()
  examples: Mapping[str, np.ndarray] = {}
  alike: bool = True


def write(
  path: Path,
  runs: Sequence[Run],
  *,
  references: Sequence[Mapping] = (),
  plots: Sequence[str] = (),
  notes: Sequence[str] = (),
) -> None:
  """Writes the page.

  Args:
    references: rows without steps, that of the truth and the like.
    plots: the logged values that are drawn.
    notes: what a reader must know, below the table.
  """
  title = ' · '.join(labels(runs)) if len(runs) < 4 else f'{len(runs)} runs compared'
  rows = in_order(runs)
  body = [f'<h1>{html.escape(title)}</h1>']
  body += [f'<p class="finding">{html.escape(text)}</p>' for text in findings(runs, rows)]
  if rows:
    body += ['<h2>Results</h2>', results(runs, [*rows, *references])]
    body += [page.listed([NOTE, *notes])]
    body += [page.charted(page.over_steps(rows, name, labels(runs)) for name in of_rows(rows))]
  else:
    body += [page.listed(notes)]
  body += [page.figure(picture) for picture in pictures(runs)]
  body += settings(runs)
  body += training(runs, plots)
  files.write(Path(path), page.document(title, body))


def in_order(runs: Sequence[Run]) -> list[dict]:
  """The rows of all runs by their number of steps; `method` is the run."""
  rows = [dict(row, method=run.label) for run in runs for row in run.rows]
  return sorted(rows, key=lambda row: row['steps'])


def bests(runs: Sequence[Run], rows: Sequence[Mapping]) -> dict[int, dict[str, float]]:
  """Number of steps -> metric -> the best value of the runs that can be compared with the first."""
  alike = {run.label for run in runs if run.alike}
  count = rows[0]['count']
  out = {}
  for steps in {row['steps'] for row in rows}:
    fair = [r for r in rows if r['method'] in alike and (r['steps'], r['count']) == (steps, count)]
    several = len({row['method'] for row in fair}) > 1
    out[steps] = table.best_values(fair) if several else {}
  return out


def results(runs: Sequence[Run], rows: Sequence[Mapping]) -> str:
  """The table of all rows, with what is best at each number of steps."""
  best = bests(runs, [row for row in rows if row['steps']])
  return table.table(rows, heading='run', by='steps', best=lambda row: best.get(row['steps'], {}))


def findings(runs: Sequence[Run], rows: Sequence[Mapping]) -> list[str]:
  """Which run is best in what, at the numbers of steps that all runs have."""
  if not rows:
    return []
  out = []
  for steps, best in sorted(bests(runs, rows).items()):
    here = [row for row in rows if row['steps'] == steps]
    if len({row['method'] for row in here}) < len(runs) or not best:
      continue
    leads: dict[str, list[str]] = {}
    for name, value in best.items():
      metric = METRICS[name]
      first = [
        r['method'] for r in here if name in r and metric.shown(r[name]) == metric.shown(value)
      ]
      if len(first) == 1:
        leads.setdefault(first[0], []).append(f'{metric.label} ({metric.shown(value)})')
    said = '; '.join(f'{label} is best in {", ".join(names)}' for label, names in leads.items())
    if said:
      out.append(f'At {steps} step{"s" * (steps > 1)} {said}.')
  return out


def pictures(runs: Sequence[Run]) -> list[Picture]:
  """The same held-out examples side by side, at the numbers of steps that most runs have."""
  shown = [run for run in runs if run.alike and run.examples]
  if not shown:
    return []
  of_steps = [
    {int(k.removeprefix('steps_')) for k in r.examples if k.startswith('steps_')} for r in shown
  ]
  counts = {steps: sum(steps in found for found in of_steps) for steps in set().union(*of_steps)}
  several = [steps for steps in counts if counts[steps] > 1] or counts
  chosen = sorted(several, key=lambda steps: (-counts[steps], steps))[:SHOWN]
  return [picture(shown, steps) for steps in sorted(chosen)]


def picture(runs: Sequence[Run], steps: int) -> Picture:
  """One row per example: the condition, what each run made of it, and the truth."""
  first, name = runs[0].examples, f'steps_{steps}'
  columns = {'condition': first['condition']} if 'condition' in first else {}
  columns |= {broken(run.label): run.examples[name] for run in runs if name in run.examples}
  columns['truth'] = first['truth']
  count = min(map(len, columns.values()))
  many = f'{steps} step{"s" * (steps > 1)}'
  what = ', '.join(label.replace('\n', '') for label in columns)
  alt = f'The first {count} held-out examples at {many}, one in each row. Columns: {what}.'
  return Picture(f'The same examples at {many}', alt, grid.grid(columns))


def broken(label: str, width: int = 18) -> str:
  """A label in lines of at most `width` letters."""
  return '\n'.join(label[i : i + width] for i in range(0, len(label), width))


def settings(runs: Sequence[Run]) -> list[str]:
  """The table of the settings in which the configs of the runs differ; nothing without any."""
  keys = sorted({key for run in runs for key in run.fields})
  rows = []
  for key in keys:
    values = [run.fields.get(key, MISSING) for run in runs]
    if any(value != values[0] for value in values):
      rows.append((key, [shown(value) for value in values]))
  if not rows:
    return []
  return ['<h2>Settings that differ</h2>', table.plain(['setting', *labels(runs)], rows)]


MISSING = object()


def shown(value: Any) -> str:
  """A value of a config as text, its beginning; a dash where the config has no such field."""
  return '–' if value is MISSING else quoted(value, 60)


def labels(runs: Sequence[Run]) -> list[str]:
  return [run.label for run in runs]


def training(runs: Sequence[Run], plots: Sequence[str]) -> list[str]:
  """Curves of what the runs logged, and their speed; nothing without a log."""
  drawn = []
  for name in plots:
    lines = {run.label: curve(run.log, name) for run in runs}
    lines = {label: line for label, line in lines.items() if line}
    names = dict(x_name='updates', y_name=name, order=labels(runs))
    drawn.append(charts.lines(lines, title=f'{name} while training', **names))
  speed = []
  for name, words in SPEED.items():
    values = [next((r[name] for r in reversed(run.log) if name in r), None) for run in runs]
    if any(value is not None for value in values):
      speed.append((words, ['–' if v is None else f'{v:.3g}' for v in values]))
  out = ['<h2>Training</h2>', page.charted(drawn)] if any(drawn) else []
  if speed:
    out += ['<h2>Speed at the end of the log</h2>', table.plain(['', *labels(runs)], speed)]
  return out


def curve(log: Sequence[Mapping], name: str) -> list[tuple[float, float]]:
  """The logged values of a name, means of neighbours where there are many."""
  rows = [(row['step'], row[name]) for row in log if name in row and math.isfinite(row[name])]
  if not rows:
    return []
  parts = np.array_split(np.array(rows, float), min(POINTS, len(rows)))
  return [tuple(part.mean(0)) for part in parts]
