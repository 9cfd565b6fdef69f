"""Owns a Fréchet distance on a stand-in feature network. It is not FID and is never called so.

The features are AlexNet's last two ReLU taps (LPIPS' trunk), averaged over the picture: 512.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdd.core.types import Array, Params
from cdd.metrics import lpips
from cdd.metrics.metric import Metric

NOTE = 'The Fréchet distance is one on AlexNet features: a stand-in, not FID.'


class Moments(NamedTuple):
  """Sums over the examples seen, float64: their number, Σ f [d] and Σ f fᵀ [d, d]."""

  count: int
  total: np.ndarray
  outer: np.ndarray


@jax.jit
def features(params: Params, images: Array) -> Array:
  """[b, 512] of images [b, H, W, 3] in [0, 1]."""
  taps = lpips.features(params, images)[-2:]
  return jnp.concatenate([tap.mean((1, 2)) for tap in taps], axis=-1)


def accumulate(moments: Moments | None, batch: np.ndarray) -> Moments:
  """Adds a batch of features [b, d]."""
  batch = np.asarray(batch, np.float64)
  new = Moments(len(batch), batch.sum(0), batch.T @ batch)
  return new if moments is None else Moments(*(a + b for a, b in zip(moments, new, strict=True)))


def frechet(a: Moments, b: Moments) -> float:
  """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) (Heusel et al., 2017), by eigenvalues."""
  (mean_a, cov_a), (mean_b, cov_b) = _gaussian(a), _gaussian(b)
  values, vectors = np.linalg.eigh(cov_a)
  # Fewer examples than features leave eigenvalues of rounding alone, whose roots would add up.
  real = values > values[-1] * len(values) * np.finfo(np.float64).eps
  root = vectors[:, real] * np.sqrt(values[real])
  cross = np.linalg.eigvalsh(root.T @ cov_b @ root)
  trace = np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(np.maximum(cross, 0)).sum()
  return float(((mean_a - mean_b) ** 2).sum() + trace)


def _gaussian(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
  if moments.count < 2:
    raise ValueError(f'A covariance needs two examples or more, not {moments.count}.')
  mean = moments.total / moments.count
  centred = moments.outer - moments.count * np.outer(mean, mean)
  return mean, centred / (moments.count - 1)


def _update(state, images: np.ndarray, references: np.ndarray):
  weights = lpips.load()
  pairs = zip(state, (images, references), strict=True)
  return tuple(accumulate(moments, features(weights, batch)) for moments, batch in pairs)


def _result(state) -> float:
  return frechet(*state)


FRECHET = Metric(
  lambda: (None, None),
  _update,
  _result,
  label='Fréchet',
  better=min,
  digits=2,
  note=NOTE,
  least=lpips.LEAST,
  count=2,
)
