"""Owns what a run shows: previews while it trains."""

import numpy as np

from cdd.models import lpips

PREVIEWS = 16  # Held-out examples behind the score; half of them are drawn.


def preview(experiment, config, params) -> tuple[dict, float]:
  """(columns of a picture, score): the score is the mean LPIPS to the truth, lower is better."""
  batch = experiment.held_out(PREVIEWS, PREVIEWS)[0]
  columns = {'condition': batch['condition']} if 'condition' in batch else {}
  if config.method.name == 'autoencoder':
    columns['reconstruction'] = out = experiment.reconstruct(params, batch['image'])
  else:
    for steps in (1, 4) if config.evaluation else (50,):
      sampler = config.evaluation.sampler if config.evaluation else 'ddim'
      out = experiment.sample(params, batch, 0, sampler=sampler, steps=steps)
      columns[f'{steps} step' + 's' * (steps > 1)] = out
  columns['truth'] = batch['image']
  score = float(lpips.lpips(lpips.load(), out, batch['image']).mean())
  return {label: np.asarray(images)[: PREVIEWS // 2] for label, images in columns.items()}, score
