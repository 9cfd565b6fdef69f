"""Owns what ships and is shown beside a run: weights that are sampled anew, and past results."""

import json
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import numpy as np

from cdd import assets
from cdd.pretrained import trained
from cdd.reports import stored
from cdd.runs.rows import Entry, of_steps

STEP = 'unet.time_embedding.cond_proj.kernel'  # What a network that is given its step has besides.


def shipped(config, kind: str) -> list:
  """The entries of `config.evaluation.shipped` of a kind, `weights` or `results`.

  What ships was trained from the packaged prior and fits no other.
  """
  listed = config.evaluation.shipped if config.prior.path == 'packaged' else ()
  return [entry for entry in listed if kind in entry]


def weights(entry, shapes) -> tuple[dict, int]:
  """The parameters of a shipped model, and how many updates it had.

  A run whose network is given its step samples what ships with zeros there: the step is ignored.

  Raises:
    UserError: the file is missing or does not fit `shapes`.
  """
  path = assets.TRAINED / f'{entry["weights"]}.safetensors'
  own = {name: shape for name, shape in shapes.items() if name != STEP}
  added = {name: np.zeros(shapes[name].shape, np.float32) for name in shapes.keys() - own.keys()}
  updates = json.loads(path.with_suffix('.json').read_text())['steps']
  return {**trained.load(path, own), **added}, updates


def entries(experiment, config) -> list[Entry]:
  """The rows of the models that ship, at the numbers of steps that the run's network can take.

  Raises:
    UserError: as `weights`.
  """
  out = []
  for entry in shipped(config, 'weights'):
    tree, updates = weights(entry, experiment.abstract.params)
    known = experiment.networks.beside.counts or entry['steps']
    steps = [count for count in entry['steps'] if count in known]
    sample = partial(experiment.sample, tree)
    out += of_steps(entry['label'], sample, updates, entry['sampler'], steps)
  return out


def results(config, batch: dict) -> tuple[list[dict], dict]:
  """The rows that ship in place of weights, and their images by (method, steps).

  They are left out if they were not measured on the run's held-out examples. Of the numbers of
  examples that they were measured on, the one nearest to the run's counts. What a row calls its
  method says how many updates it had.

  Args:
    batch: the first held-out batch of the run.
  """
  rows, shown = [], {}
  for entry in shipped(config, 'results'):
    found = stored.read(assets.RESULTS / entry['results'])
    label = f'{entry["label"]} ({found.updates} updates)'
    if not stored.same_examples(found, batch):
      if jax.process_index() == 0:
        print(f'{label} is left out: it was measured on other held-out examples.')
      continue
    count = min((r['count'] for r in found.rows), key=lambda n: abs(n - config.evaluation.count))
    for row in found.rows:
      if row['count'] == count:
        # The time of another computer is not comparable.
        fields = dict(updates=found.updates, seconds_per_image=None)
        rows.append({'method': label, **row, **fields})
    shown |= {(label, steps): images for steps, images in found.pictures.items()}
  return rows, shown


def rival(rows: Sequence[Mapping], updates: int) -> str | None:
  """The method among rows of `results` that had as many updates, or else the nearest number."""
  labels = {row['method']: row['updates'] for row in rows}
  return min(labels, key=lambda label: abs(labels[label] - updates), default=None)


def check(config) -> None:
  """Reads the results, so that a missing file is found before a training."""
  for entry in shipped(config, 'results'):
    stored.read(assets.RESULTS / entry['results'])
