"""Owns filtering with mirrored borders, of images that fill a part of a canvas of fixed size.

Images are [3, H, W] here and in the other stages: the last axes are those that are filtered,
resized and cut into blocks.
"""

import jax.numpy as jnp
from jax.lax import Precision
from scipy.fft import next_fast_len

from cdd.core.types import Array

Size = tuple[Array | int, Array | int]


def mirrored(positions: Array, count: Array | int) -> Array:
  """Where positions beyond an axis of `count` pixels fall: 2 1 | 0 1 2 | 1 0 (reflect-101).

  Positions may be any distance away, also of an axis that is shorter than that.
  """
  period = jnp.maximum(2 * (count - 1), 1)
  folded = positions % period
  return jnp.where(folded < count, folded, period - folded)


def inside(shape: tuple[int, ...], size: Size) -> Array:
  """Where the image of size (h, w) lies on a canvas [..., H, W]: bool [1, H, W]."""
  rows, columns = (jnp.arange(side) < count for side, count in zip(shape[-2:], size, strict=True))
  return rows[None, :, None] & columns[None, None]


def filter2d(image: Array, kernel: Array, size: Size) -> Array:
  """The correlation of an image with a kernel, as BasicSR's filter2D.

  It is computed by Fourier transforms: 21 x 21 weights cost 1/20 of the direct sum.

  Args:
    image: [3, H, W], a canvas.
    kernel: [k, k], k odd.
    size: (h, w), the part of the canvas that the image fills; the rest of the result is undefined.
  """
  reach = kernel.shape[-1] // 2
  for axis, count in zip((1, 2), size, strict=True):
    positions = jnp.arange(-reach, image.shape[axis] + reach)
    image = jnp.take(image, mirrored(positions, count), axis=axis, mode='clip')
  sides = tuple(next_fast_len(side, real=True) for side in image.shape[1:])
  product = jnp.fft.rfft2(image, sides) * jnp.conj(jnp.fft.rfft2(kernel[None], sides))
  height, width = (side - 2 * reach for side in image.shape[1:])
  return jnp.fft.irfft2(product, sides)[:, :height, :width]


def along(image: Array, rows: Array, columns: Array) -> Array:
  """`rows` @ image @ `columns`ᵀ for each channel, [3, H, W] -> [3, h, w], in full precision."""
  image = jnp.einsum('oh,chw->cow', rows, image, precision=Precision.HIGHEST)
  return jnp.einsum('cow,pw->cop', image, columns, precision=Precision.HIGHEST)
