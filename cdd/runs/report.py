"""Owns what a run shows: previews while it trains, and the evaluation beside its baselines."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from cdd import assets
from cdd.core.registry import choose
from cdd.diffusion import times
from cdd.diffusion.samplers import SAMPLERS
from cdd.metrics import METRICS
from cdd.metrics import lpips
from cdd.pretrained import trained
from cdd.reports import grid, page
from cdd.runs.evaluate import evaluate as measure
from cdd.runs.objective import method_of
from cdd.training import writer

PREVIEWS = 16  # Held-out examples behind a preview's score; half of them are drawn.


class Entry(NamedTuple):
  """A row to measure: a method at a number of steps, and how it samples."""

  method: str
  steps: int | None
  sampler: str | None
  sample: Callable[[dict, int], np.ndarray]


def preview(experiment, config, params) -> tuple[dict, float]:
  """(columns of a picture, score): the score is the mean LPIPS to the truth, lower is better."""
  batch = experiment.held_out(PREVIEWS, PREVIEWS)[0]
  columns = {'condition': batch['condition']} if 'condition' in batch else {}
  if method_of(config).sampler is None:
    columns['reconstruction'] = out = experiment.reconstruct(params, batch['image'])
  else:
    for steps in (1, 4) if config.evaluation else (50,):
      sampler = config.evaluation.sampler if config.evaluation else 'ddim'
      out = experiment.sample(params, batch, 0, sampler=sampler, steps=steps)
      columns[f'{steps} step' + 's' * (steps > 1)] = out
  columns['truth'] = batch['image']
  score = float(lpips.lpips(lpips.load(), out, batch['image']).mean())
  return {label: np.asarray(images)[: PREVIEWS // 2] for label, images in columns.items()}, score


def evaluate(experiment, config, params, workdir: Path) -> list[dict]:
  """Measures the run, the shipped models and the trivial rows; writes report.html, metrics.json."""
  settings = config.evaluation
  batches = experiment.held_out(settings.count, settings.batch_size)
  rows, shown = [], {}
  for entry in entries(experiment, config, params):
    row, images = measure(entry.sample, batches, METRICS)
    rows.append(dict(method=entry.method, steps=entry.steps, sampler=entry.sampler, **row))
    shown[entry.method, entry.steps] = images
    if jax.process_index() == 0:
      print(line(rows[-1]), flush=True)
  if jax.process_index() == 0:
    write(config, workdir, rows, shown, batches[0])
  return rows


def check(experiment, config) -> None:
  """Looks up what only the evaluation needs: a mistake there must not cost a training.

  Raises:
    UserError: an unknown sampler, a number of steps out of range, a shipped file that is missing
      or does not fit.
  """
  for entry in entries(experiment, config, None) if config.evaluation else ():
    if entry.steps is not None:
      choose(SAMPLERS, entry.sampler, 'sampler')
      times.Timesteps().times(experiment.networks.schedule.num_steps, entry.steps)


def entries(experiment, config, params) -> list[Entry]:
  """What the report compares, in the order of its table."""
  settings = config.evaluation

  def rows(label, tree, sampler, counts):
    sample = lambda steps: (
      lambda batch, number: experiment.sample(tree, batch, number, sampler=sampler, steps=steps)
    )
    return [Entry(label, steps, sampler, sample(steps)) for steps in counts]

  label = 'finetune' if config.method.name == 'finetune' else 'ours'
  out = rows(label, params, settings.sampler, settings.steps)
  # What ships was trained from the packaged prior and fits no other.
  for other in settings.shipped if config.prior.path == 'packaged' else ():
    tree = trained.load(assets.TRAINED / other['file'], experiment.abstract.params)
    out += rows(other['label'], tree, other['sampler'], other['steps'])
  if settings.condition_row:
    out.append(Entry(settings.condition_row, None, None, lambda b, number: b['condition']))
  through = lambda batch, number: experiment.reconstruct(params, batch['image'])
  out.append(Entry('autoencoder of the truth', None, None, through))
  return out


def line(row: dict) -> str:
  """One row as text."""
  steps = f'{row["steps"]} steps, {row["sampler"]}' if row['steps'] else ''
  measured = '  '.join(f'{m.label} {m.shown(row[name])}' for name, m in METRICS.items())
  return (
    f'{row["method"]:>26} {steps:<24} {measured}  {row["seconds_per_image"]:.4f} s/image'
  )


def write(config, workdir: Path, rows, shown, batch) -> None:
  """The page: table, curves, one picture per sampled method."""
  pictures = {}
  for method in dict.fromkeys(row['method'] for row in rows if row['steps']):
    columns = {'condition': batch['condition']}
    for name, steps in shown:
      if name == method:
        columns[f'{steps} step' + 's' * (steps > 1)] = shown[name, steps]
    columns['truth'] = batch['image']
    pictures[method] = grid.grid({label: images[:8] for label, images in columns.items()})
    grid.save_png(workdir / 'pictures' / f'{method.replace(" ", "_")}.png', pictures[method])
  page.write(
    workdir,
    title=config.name.replace('_', ' '),
    intro=[
      f'{config.steps} training steps of batch {config.data.batch_size}, method '
      f'{config.method.name}, adapter {config.model.adapter.name}; measured on '
      f'{config.evaluation.count} held-out examples.',
      f'{" ".join(m.note for m in METRICS.values() if m.note)} LPIPS, PSNR and SSIM are to the truth; a generative '
      'model of an ambiguous condition is not meant to reach it exactly.',
    ],
    rows=rows,
    pictures=pictures,
    log=writer.read(workdir / 'log.jsonl'),
    losses=method_of(config).plots,
  )
  print(f'Wrote {workdir / "report.html"} and {workdir / "metrics.json"}.')
