"""Owns the evaluation of one sampler: metrics over held-out batches, and the time it takes."""

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cdd.core.errors import UserError
from cdd.metrics import METRICS
from cdd.metrics.frechet import accumulate, features, frechet
from cdd.metrics import lpips
from cdd.core.types import Params


def evaluate(
  sample: Callable[[dict, int], np.ndarray],
  batches: Sequence[dict],
  *,
  weights: Params,
  keep: int = 8,
) -> tuple[dict, np.ndarray]:
  """Samples every batch once and compares with the truth.

  Args:
    sample: (batch, its number) -> images [b, H, W, 3] in [0, 1].
    batches: dicts with `image`, the truth.
    weights: LPIPS' parameters.
    keep: how many images to return for the picture.

  Returns:
    dict(lpips, psnr, ssim, frechet, seconds_per_image, count), and the first images.

  Raises:
    UserError: a sample is not finite.
  """
  distance = jax.jit(lpips.lpips)
  jax.block_until_ready(sample(batches[0], 0))  # Compiles; not timed.
  values, seconds, shown, ours, real = {}, 0.0, [], None, None
  for number, batch in enumerate(batches):
    began = time.perf_counter()
    images = np.asarray(sample(batch, number))
    seconds += time.perf_counter() - began
    if not np.isfinite(images).all():
      raise UserError(f'The samples of held-out batch {number} are not finite.')
    truth = batch['image']
    pairs = {name: metric(images, truth) for name, metric in METRICS.items()}
    pairs['lpips'] = np.asarray(distance(weights, images, truth))
    for name, row in pairs.items():
      values.setdefault(name, []).extend(row.tolist())
    ours, real = (accumulate(m, features(weights, x)) for m, x in ((ours, images), (real, truth)))
    shown.extend(images[: max(0, keep - len(shown))])
  row = {name: float(np.mean(values[name])) for name in ('lpips', 'psnr', 'ssim')}
  count = len(values['psnr'])
  row.update(frechet=frechet(ours, real), seconds_per_image=seconds / count, count=count)
  return row, np.stack(shown)
