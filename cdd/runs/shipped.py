"""Owns what ships and is shown beside a run: weights that are sampled anew, and past results."""

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax

from cdd import assets
from cdd.pretrained import locate
from cdd.reports import stored
from cdd.runs.experiment import sampling
from cdd.runs.rows import Entry, of_steps
from cdd.sampling import load
from cdd.training import sharding


def shipped(config, kind: str) -> list:
  """The entries of `config.evaluation.shipped` of a kind, `weights` or `results`.

  What ships was trained from the packaged prior and fits no other.
  """
  listed = config.evaluation.shipped if config.prior.path == 'packaged' else ()
  return [entry for entry in listed if kind in entry]


@functools.cache
def model(name: str, mesh) -> tuple[Callable, int]:
  """A model that ships, by its own config: the run's method, adapter and trained part may differ.

  It is kept, as what is compiled for the first page serves the report too.

  Returns:
    `Experiment.sample` without its parameters, and how many updates the model had.

  Raises:
    UserError: it is missing or does not fit the prior.
  """
  pipeline = load(f'packaged:{name}')
  params = jax.device_put(jax.device_get(pipeline.params), sharding.replicated(mesh))
  sample = partial(sampling(pipeline.networks, params, mesh), {})
  return sample, config_of(name)['steps']


def config_of(name: str) -> dict:
  """The config that a model that ships was trained by."""
  return locate.locate(f'packaged:{name}').config


def entries(config, mesh) -> list[Entry]:
  """The rows of the models that ship.

  Raises:
    UserError: as `model`.
  """
  out = []
  for entry in shipped(config, 'weights'):
    sample, updates = model(entry['weights'], mesh)
    out += of_steps(entry['label'], sample, updates, entry['sampler'], entry['steps'])
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


def check(config, mesh) -> None:
  """Reads what ships, so that a missing file is found before a training.

  Raises:
    UserError: names the file.
  """
  entries(config, mesh)
  for entry in shipped(config, 'results'):
    stored.read(assets.RESULTS / entry['results'])
