"""Owns structural similarity (Wang et al., 2004): Gaussian window 11x11, σ 1.5, valid pixels."""

import numpy as np
from scipy.ndimage import correlate1d

from cdd.metrics.metric import mean_of

SIZE, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim(images: np.ndarray, references: np.ndarray) -> np.ndarray:
  """[b] of images [b, H, W, 3] in [0, 1]: the mean over pixels and channels."""
  a, b = np.asarray(images, np.float64), np.asarray(references, np.float64)
  mean_a, mean_b = _window(a), _window(b)
  var_a = _window(a * a) - mean_a**2
  var_b = _window(b * b) - mean_b**2
  covariance = _window(a * b) - mean_a * mean_b
  structure = (2 * covariance + C2) / (var_a + var_b + C2)
  luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
  return (luminance * structure).mean(axis=(1, 2, 3))


def _window(x: np.ndarray) -> np.ndarray:
  taps = np.exp(-0.5 * ((np.arange(SIZE) - SIZE // 2) / SIGMA) ** 2)
  taps /= taps.sum()
  edge = slice(SIZE // 2, -(SIZE // 2))
  blurred = correlate1d(correlate1d(x, taps, axis=1), taps, axis=2)
  return blurred[:, edge, edge]


SSIM = mean_of(ssim, label='SSIM', better=max, digits=3)._replace(least=SIZE)
