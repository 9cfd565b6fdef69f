"""Owns the rows of an evaluation: what is sampled, in which order, and what is measured of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from cdd.core.words import counted
from cdd.metrics import of_rows
from cdd.metrics.metric import Metric
from cdd.reports import pictures
from cdd.runs.evaluate import evaluate

# What examples may exchange, to see how much of an image it decides -> the arrays of a batch.
EXCHANGED = dict(condition=('condition', 'mask'), text=('tokens', 'tokens_2', 'present'))
FEW = (1, 4)  # Numbers of steps at which they do.


class Entry(NamedTuple):
  """A row to measure: a method at a number of steps, how it samples, and how long it trained.

  `drawn` says whether its images are shown.
  """

  method: str
  steps: int | None
  sampler: str | None
  updates: int | None
  sample: Callable[[dict, int], np.ndarray]
  drawn: bool = True


def of_steps(
  label: str, sample: Callable, updates: int | None, sampler: str, counts: Sequence[int]
) -> list[Entry]:
  """A row for each number of steps.

  Args:
    sample: (batch, number, sampler=, steps=) -> images.
  """

  def entry(steps):
    return Entry(label, steps, sampler, updates, partial(sample, sampler=sampler, steps=steps))

  return [entry(steps) for steps in counts]


def of_model(label: str, sample: Callable, updates: int | None, settings) -> list[Entry]:
  """The rows of a model: its samplers, and the condition or the text of another example.

  Args:
    sample: (batch, number, sampler=, steps=) -> images.
    settings: as `config.evaluation`.
  """
  out = []
  for sampler, counts in ((settings.sampler, settings.steps), *settings.get('more', ())):
    out += of_steps(label, sample, updates, sampler, counts)
  if what := settings.get('mismatched'):
    other = f'{label}, {what} of another'
    counts = [steps for steps in settings.steps if steps in FEW]
    for entry in of_steps(other, sample, updates, settings.sampler, counts):
      changed = mismatched(entry.sample, EXCHANGED[what])
      out.append(entry._replace(sample=changed, drawn=False))
  return out


def references(reconstruct: Callable[[np.ndarray], np.ndarray], settings) -> list[Entry]:
  """The rows without a sampler, which end a table."""

  def condition(batch, number):
    return batch['condition']

  def through(batch, number):
    return reconstruct(batch['image'])

  trivial = {settings.condition_row: condition} if settings.condition_row else {}
  trivial['autoencoder of the truth'] = through
  return [Entry(label, None, None, None, sample) for label, sample in trivial.items()]


def mismatched(sample: Callable, names: Sequence[str]) -> Callable:
  """Samples each example with these arrays of the example before it in the batch."""

  def run(batch, number):
    others = {name: np.roll(batch[name], 1, 0) for name in names if name in batch}
    return sample(batch | others, number)

  return run


def measured(
  entries: Sequence[Entry], batches: Sequence[dict], metrics: Mapping[str, Metric], *, seen: int
) -> tuple[list[dict], dict]:
  """Samples and measures every entry; process 0 prints each row.

  Args:
    seen: how many pictures the examples are of.

  Returns:
    The rows; the first images of those that are drawn, by (method, steps).
  """
  rows, shown, main = [], {}, jax.process_index() == 0
  for entry in entries:
    what = entry.method + (f' at {counted(entry.steps, "step")}' if entry.steps else '')
    says = dict(first=pictures.EXAMPLES, what=what, say=print if main else None)
    row, images = evaluate(entry.sample, batches, metrics, **says)
    fields = dict(steps=entry.steps, sampler=entry.sampler, updates=entry.updates)
    rows.append(dict(method=entry.method, **fields, **row, pictures=seen))
    if entry.steps and entry.drawn:
      shown[entry.method, entry.steps] = images
    if main:
      print(line(rows[-1]), flush=True)
  return rows, shown


def line(row: dict) -> str:
  """One row as text."""
  steps = f'{row["steps"]} steps, {row["sampler"]}' if row['steps'] else ''
  measured = '  '.join(f'{m.label} {m.shown(row[name])}' for name, m in of_rows([row]).items())
  return f'{row["method"]:>26} {steps:<24} {measured}  {row["seconds_per_image"]:.4f} s/image'
