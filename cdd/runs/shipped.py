"""Owns what ships and is shown beside a run: weights that are sampled anew, and past results."""

import json

import jax

from cdd import assets
from cdd.pretrained import trained
from cdd.reports import stored


def shipped(config, kind: str) -> list:
  """The entries of `config.evaluation.shipped` of a kind, `weights` or `results`.

  What ships was trained from the packaged prior and fits no other.
  """
  listed = config.evaluation.shipped if config.prior.path == 'packaged' else ()
  return [entry for entry in listed if kind in entry]


def weights(entry, shapes) -> tuple[dict, int]:
  """The parameters of a shipped model, and how many updates it had.

  Raises:
    UserError: the file is missing or does not fit `shapes`.
  """
  path = assets.TRAINED / f'{entry["weights"]}.safetensors'
  tree = trained.load(path, shapes)
  return tree, json.loads(path.with_suffix('.json').read_text())['steps']


def results(config, batch: dict) -> tuple[list[dict], dict]:
  """The rows that ship in place of weights, and their images by (method, steps).

  They are left out if they were not measured on the run's held-out examples. Of the numbers of
  examples that they were measured on, the one nearest to the run's counts.

  Args:
    batch: the first held-out batch of the run.
  """
  rows, shown = [], {}
  for entry in shipped(config, 'results'):
    label, found = entry['label'], stored.read(assets.RESULTS / entry['results'])
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


def check(config) -> None:
  """Reads the results, so that a missing file is found before a training."""
  for entry in shipped(config, 'results'):
    stored.read(assets.RESULTS / entry['results'])
