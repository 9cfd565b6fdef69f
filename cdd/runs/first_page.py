"""Owns the page of a run that has yet to train: what ships, beside the undistilled model."""

from pathlib import Path

import jax
import numpy as np

from cdd.core import interrupts
from cdd.core.words import counted
from cdd.reports import page, pictures
from cdd.runs import shipped as beside
from cdd.runs.evaluate import check_finite

LATER = 'This run trains; its report will replace this page.'


def write(experiment, config, workdir: Path) -> None:
  """Draws held-out examples with the models that ship, into the page that the report replaces.

  Where none ships nothing is written. The batch and the noise are the evaluation's first: its
  images are the same, and what is compiled here serves it too. Every process samples; process 0
  alone prints and writes.

  Raises:
    UserError: the samples are not finite.
  """
  entries = beside.entries(config, experiment.mesh) if config.evaluation else []
  entries = [entry for entry in entries if entry.steps in pictures.FEW]
  if not entries:
    return
  main, size = jax.process_index() == 0, config.evaluation.batch_size
  (batch,) = experiment.held_out(size, size)
  past, shown = beside.results(config, batch)
  for entry in entries:
    what = f'{entry.method} at {counted(entry.steps, "step")}'
    with interrupts.compiling(what, print if main else None):
      images = np.asarray(entry.sample(batch, 0))
    check_finite(images, 0)
    shown[entry.method, entry.steps] = images[: pictures.EXAMPLES]
  if main:
    updates = {entry.method: entry.updates for entry in entries}
    findings = [found(past, shown, batch, *model) for model in updates.items()]
    for one in findings:
      pictures.save(workdir / 'pictures', one.picture)
    page.write_findings(workdir, title=config.name.replace('_', ' '), findings=findings)
    where = workdir / 'report.html'
    print(f'See {where}: held-out examples by the model that ships. {LATER}', flush=True)


def found(past: list[dict], shown: dict, batch: dict, label: str, updates: int) -> page.Finding:
  """A model that ships beside stored results, if there are any: a sentence and a picture."""
  rival = beside.rival(past, updates)
  side_by_side = pictures.side_by_side(label, rival, shown, batch)
  said = f'Held-out examples by {label} after {updates} updates'
  said += f', beside {rival}. {LATER}' if side_by_side else f'. {LATER}'
  return page.Finding(said, side_by_side or pictures.alone(label, shown, batch))
