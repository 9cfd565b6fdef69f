"""Owns the plain bicubic reduction, and the enlargement that makes a condition of a small image."""

import jax
import jax.numpy as jnp

from cdd.core.types import Array
from cdd.data.degradations.degradation import Degradation, check_sides


def bicubic(*, factor: int) -> Degradation:
  """Pillow's antialiased bicubic reduction, rounded to eight bits, on the device; nothing is drawn.

  The benchmarks of super-resolution that are called bicubic were reduced with MATLAB's imresize,
  which has the same kernel (a = -0.5, stretched by the factor) and differs at the borders alone.
  PyTorch's default does neither and aliases.

  Args:
    factor: the reduction; it must divide both sides.
  """

  def degrade(image: Array, key: Array) -> tuple[Array, Array]:
    del key
    check_sides(image.shape, factor)
    small = resampled(image, tuple(side // factor for side in image.shape[:2]))
    return image, jnp.round(255 * small) / 255

  return Degradation(on_device=degrade)


def resampled(image: Array, size: tuple[int, int]) -> Array:
  """An image [H, W, 3] in [0, 1] at another size, as Pillow's BICUBIC but for its eight bits."""
  out = jax.image.resize(
    image, (*size, 3), 'cubic', antialias=True, precision=jax.lax.Precision.HIGHEST
  )
  return jnp.clip(out, 0, 1)
