"""Owns the peak signal-to-noise ratio."""

import numpy as np

from cdd.metrics.metric import mean_of


def psnr(images: np.ndarray, references: np.ndarray) -> np.ndarray:
  """Decibels, [b], of images [b, H, W, 3] in [0, 1]; at most 80 (pyiqa's 1e-8 below the root)."""
  error = ((np.asarray(images, np.float64) - references) ** 2).mean(axis=(1, 2, 3))
  return 10 * np.log10(1 / (error + 1e-8))


PSNR = mean_of(psnr, label='PSNR', better=max, digits=2)
