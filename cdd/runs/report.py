"""Owns what a run shows: previews while it trains, and the evaluation beside its baselines."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.diffusion import times
from cdd.diffusion.samplers import SAMPLERS
from cdd.metrics import GENERAL, METRICS, chosen, lpips, of_rows
from cdd.metrics.metric import check as check_metric
from cdd.reports import examples, finding, page, pictures, table
from cdd.runs import shipped as beside
from cdd.runs import streams
from cdd.runs.objective import method_of
from cdd.runs.rows import EXCHANGED, Entry, measured, of_model, references
from cdd.sampling.draw import check_steps
from cdd.training import writer

PREVIEWS = 16  # Held-out examples behind a preview's score; half of them are drawn.
MANY = 1000  # Below as many held-out examples the report says that they are few.
UNDISTILLED = 'the undistilled model'
TRUTH = (
  'LPIPS, PSNR and SSIM compare with the truth, which a generative model of an ambiguous condition '
  'cannot be expected to reach.'
)


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
  """Measures the run, what ships and the trivial rows; writes report.html and metrics.json.

  Every process samples; process 0 alone prints and writes.
  """
  settings, main = config.evaluation, jax.process_index() == 0
  batches = experiment.held_out(settings.count, settings.batch_size)
  metrics = chosen(settings.get('metrics', GENERAL))
  seen = experiment.held_out.pictures(settings.count)
  rows, shown = measured(entries(experiment, config, params), batches, metrics, seen=seen)
  past, images = beside.results(config, batches[0])
  rivals = rivals_of(config, rows, past)
  past = [row for row in past if row['method'] in rivals.values()]
  # The rows without steps end the table.
  rows = [r for r in rows if r['steps']] + past + [r for r in rows if not r['steps']]
  if main:
    write(config, workdir, rows, {**shown, **images}, batches[0], rivals)
  return rows


def rivals_of(config, rows: list[dict], past: list[dict]) -> dict[str, str | None]:
  """The run and the models that ship -> the stored results that each is compared with.

  Args:
    rows: what was measured of them.
    past: rows of stored results.
  """
  names = [label_of(config), *(entry['label'] for entry in beside.shipped(config, 'weights'))]
  updates = {row['method']: row['updates'] for row in rows}
  return {name: beside.rival(past, updates[name]) for name in names}


def check(experiment, config) -> None:
  """Looks up what only previews and the evaluation need: a mistake must not cost a training.

  Raises:
    UserError: an unknown sampler or metric, a number of steps out of range, a shipped file that is
      missing or does not fit, held-out examples that are too few, too small, of a size that latents
      would cut, or that lack an array.
  """
  previews, settings = config.log.samples_every, config.evaluation
  if not (previews or settings):
    return
  count = PREVIEWS if previews else settings.batch_size
  (batch,) = experiment.held_out(count, count)
  if previews:
    check_metric('lpips', METRICS['lpips'], batch, count)
  experiment.networks.latent_shape(batch['image'].shape)
  if not settings:
    return
  for entry in of_run(experiment, config, None):
    choose(SAMPLERS, entry.sampler, 'sampler')
    visited = times.Timesteps().times(experiment.networks.schedule.num_steps, entry.steps)
    check_steps(experiment.networks, SAMPLERS[entry.sampler](), visited)
  check_arrays(experiment, settings)
  beside.check(config, experiment.mesh)


def check_arrays(experiment, settings) -> None:
  """Refuses an evaluation that reads what the held-out examples do not have.

  Args:
    settings: `config.evaluation`.

  Raises:
    UserError: names the metric or the row, and what it needs.
  """
  (batch,) = experiment.held_out(settings.batch_size, settings.batch_size)
  for name, metric in chosen(settings.get('metrics', GENERAL)).items():
    check_metric(name, metric, batch, settings.count)
  what = settings.get('mismatched')
  if what and not batch.keys() & {*EXCHANGED[what]}:
    raise UserError(f'config.evaluation.mismatched is {what!r}, which the examples do not have.')
  if what and settings.batch_size < 2:
    raise UserError(
      f'config.evaluation.mismatched={what} exchanges within a batch, and '
      f'config.evaluation.batch_size is {settings.batch_size}; give 2 or more, or mismatched=None.'
    )
  if settings.condition_row and 'condition' not in batch:
    raise UserError(
      f'config.evaluation.condition_row is {settings.condition_row!r}, and the held-out examples '
      'have no condition.'
    )


def entries(experiment, config, params) -> list[Entry]:
  """What the report samples, in the order of its table."""
  out = of_run(experiment, config, params) + beside.entries(config, experiment.mesh)
  return out + references(partial(experiment.reconstruct, params), config.evaluation)


def of_run(experiment, config, params) -> list[Entry]:
  """The rows of the run itself."""
  sample = partial(experiment.sample, params)
  return of_model(label_of(config), sample, config.steps, config.evaluation)


def label_of(config) -> str:
  """What the report calls the run itself."""
  return 'finetune' if config.method.name == 'finetune' else 'ours'


def write(
  config, workdir: Path, rows: list[dict], shown: dict, batch: dict, rivals: dict[str, str | None]
) -> None:
  """The page, and its pictures as files."""
  findings = [found(config, rows, shown, batch, pair) for pair in rivals.items()]
  whole = [picture for name in rivals if (picture := pictures.alone(name, shown, batch))]
  for picture in [*(f.picture for f in findings if f.picture), *whole]:
    pictures.save(workdir / 'pictures', picture)
  examples.write(workdir / 'pictures', label_of(config), shown, batch)
  page.write(
    workdir,
    title=config.name.replace('_', ' '),
    findings=findings,
    notes=notes(config, rows, [*dict.fromkeys(filter(None, rivals.values()))]),
    rows=rows,
    pictures=whole,
    log=writer.read(workdir / 'log.jsonl'),
    plots=method_of(config).plots,
  )
  if rivals[label_of(config)]:
    print(findings[0].sentence)
  print(f'Wrote {workdir / "report.html"} and {workdir / "metrics.json"}.')


def found(config, rows: list[dict], shown: dict, batch: dict, pair) -> page.Finding:
  """What a pair of labels, of a model and of its rival or None, shows: a sentence and a picture."""
  own = pair[0] == label_of(config)
  missed = UNDISTILLED if beside.shipped(config, 'results') else ''
  return page.Finding(
    finding.sentence(rows, *pair, missed),
    pictures.side_by_side(*pair, shown, batch),
    heading='' if own else 'The model that ships',
  )


def notes(config, rows: list[dict], rivals: Sequence[str]) -> list[str]:
  """What the report lists below the table: what each label means, and the limits.

  Args:
    rivals: the labels of stored results.
  """
  count = config.evaluation.count
  out = [
    f'{label_of(config)}: this run, {config.steps} updates of batch {config.data.batch_size}, '
    f'method {config.method.name}, adapter {config.model.adapter.name}.'
  ]
  for other in beside.shipped(config, 'weights'):
    method = beside.config_of(other['weights'])['method']['name']
    out.append(f'{other["label"]}: the model in cdd/assets/trained, method {method}, sampled here.')
  if rivals:
    out.append(
      f'{" and ".join(rivals)}: {UNDISTILLED}, the same network trained without distillation from '
      'the same pretrained model. It was measured once, on the same held-out examples and on '
      'another computer, so that no time is given; a step of it takes as long as one of ours.'
    )
  if what := config.evaluation.get('mismatched'):
    out.append(
      f'{label_of(config)}, {what} of another: sampled with the {what} of another example and '
      'compared with its own truth. What this row loses is what the images owe to their own.'
    )
  if said := streams.few(rows[0]['pictures'], count):
    out.append(f'{said} What is measured on them says little about other pictures.')
  if count < MANY:
    out.append(
      f'{count} examples are few: small differences may be chance, and some distances depend on '
      'the number of examples, so compare them within this page only.'
    )
  return [table.NOTE, *out, *(m.note for m in of_rows(rows).values() if m.note), TRUTH]
