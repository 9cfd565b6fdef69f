"""Owns JPEG compression as arithmetic on arrays, without a file: what is lost, and nothing else.

Source: BasicSR's utils/diffjpeg.py, with half the chroma resolution in both directions.
"""

import jax.numpy as jnp
import numpy as np
from jax.lax import Precision

from cdd.core.types import Array
from cdd.data.degradations import filters

MULTIPLE = 16  # Of the sides of a canvas.
# The tables of the standard (ITU-T T.81, Annex K): rows are vertical frequencies.
LUMA = np.float32(
  [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ]
)
CHROMA = np.full((8, 8), 99, np.float32)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
TO_YCBCR = np.float32(
  [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
TO_RGB = np.float32([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
SHIFT = np.float32([0, 128, 128])[:, None, None]
SMALLEST = 1e-6  # Of the factor of the tables, which is 0 at quality 100.


def _waves() -> np.ndarray:
  """The orthonormal cosines of 8 pixels, [pixel, frequency]."""
  angles = (2 * np.arange(8)[:, None] + 1) * np.arange(8) * np.pi / 16
  return (np.cos(angles) * np.where(np.arange(8) == 0, 0.5**0.5, 1) / 2).astype(np.float32)


WAVES = _waves()


def tables(quality: Array, *, basicsr_compat: bool) -> tuple[Array, Array]:
  """The quantisation tables [8, 8] of luma and chroma, as libjpeg makes them: whole, 1..255.

  Args:
    quality: 1..100.
    basicsr_compat: BasicSR's instead: not rounded, and that of luma transposed.
  """
  scale = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)
  if basicsr_compat:
    factor = jnp.maximum(scale / 100, SMALLEST)
    return LUMA.T * factor, CHROMA * factor
  scale = jnp.floor(scale)
  luma, chroma = (jnp.floor((table * scale + 50) / 100) for table in (LUMA, CHROMA))
  return jnp.clip(luma, 1, 255), jnp.clip(chroma, 1, 255)


def _turned(plane: Array, waves: np.ndarray) -> Array:
  """Every 8 x 8 block of a plane [H, W] times `waves`, of its rows and of its columns."""
  height, width = plane.shape
  plane = plane.reshape(height // 8, 8, width)
  plane = jnp.einsum('aiw,iu->auw', plane, waves, precision=Precision.HIGHEST)
  plane = plane.reshape(height, width // 8, 8)
  plane = jnp.einsum('hbj,jv->hbv', plane, waves, precision=Precision.HIGHEST)
  return plane.reshape(height, width)


def _quantised(plane: Array, table: Array) -> Array:
  """What is left of a plane [H, W] in 0..255."""
  height, width = plane.shape
  steps = jnp.tile(table, (height // 8, width // 8))
  return _turned(jnp.round(_turned(plane - 128, WAVES) / steps) * steps, WAVES.T) + 128


def _mixed(matrix: np.ndarray, image: Array) -> Array:
  """Another space of colours."""
  return jnp.einsum('dc,chw->dhw', matrix, image, precision=Precision.HIGHEST)


def compressed(
  image: Array, size: filters.Size, *, quality: Array, basicsr_compat: bool = False
) -> Array:
  """An image [3, H, W] in [0, 1] after JPEG of this quality; H and W are multiples of 16.

  Args:
    size: (h, w), the part of the canvas that the image fills. The rest is black, as the encoder
      fills up its last blocks.
    quality: 1..100.
  """
  height, width = image.shape[1:]
  image = jnp.where(filters.inside(image.shape, size), 255 * image, 0)
  luma, *chroma = _mixed(TO_YCBCR, image) + SHIFT
  of_luma, of_chroma = tables(quality, basicsr_compat=basicsr_compat)
  planes = [_quantised(luma, of_luma)]
  for plane in chroma:
    half = plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    half = _quantised(half, of_chroma)
    planes.append(jnp.repeat(jnp.repeat(half, 2, 0), 2, 1))
  return jnp.clip(_mixed(TO_RGB, jnp.stack(planes) - SHIFT), 0, 255) / 255
