"""Owns unsharp masking, which Real-ESRGAN sharpens photographs with before it degrades them."""

import jax.numpy as jnp
import numpy as np

from cdd.core.types import Array
from cdd.data.degradations import filters

SIGMA = 8.0  # What OpenCV takes for 51 weights: 0.3 ((51 - 1) / 2 - 1) + 0.8.
REACH = 25
WEIGHT, THRESHOLD = 0.5, 10 / 255


def sharpened(image: Array) -> Array:
  """An image [3, H, W] in [0, 1] with its edges sharpened (BasicSR's USMSharp).

  Where it differs from its blur by more than the threshold, half the difference is added; the mask
  of these places is blurred too.
  """
  line = np.exp(-0.5 * (np.arange(-REACH, REACH + 1) / SIGMA) ** 2)
  kernel = np.outer(line, line).astype(np.float32) / np.float32(line.sum() ** 2)
  size = image.shape[1:]
  difference = image - filters.filter2d(image, kernel, size)
  mask = (jnp.abs(difference) > THRESHOLD).astype(image.dtype)
  soft = filters.filter2d(mask, kernel, size)
  sharp = jnp.clip(image + WEIGHT * difference, 0, 1)
  return soft * sharp + (1 - soft) * image
