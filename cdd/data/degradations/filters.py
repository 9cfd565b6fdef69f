"""Owns filtering with mirrored borders, of images that fill a part of a canvas of fixed size.

Images are [3, H, W] here and in the other stages: the last axes are those that are filtered,
resized and cut into blocks.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from scipy.fft import next_fast_len

from cdd.core.types import Array

BLOCK = 8
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

  Args:
    image: [3, H, W], a canvas.
    kernel: [k, k], k odd.
    size: (h, w), the part of the canvas that the image fills; the rest of the result is undefined.
  """
  reach = kernel.shape[-1] // 2
  for axis, count in zip((1, 2), size, strict=True):
    positions = jnp.arange(-reach, image.shape[axis] + reach)
    image = jnp.take(image, mirrored(positions, count), axis=axis, mode='clip')
  # TPUs take minutes to compile a Fourier transform, and a moment for a convolution.
  return jax.lax.platform_dependent(image, kernel, tpu=in_blocks, default=by_fourier)


def by_fourier(image: Array, kernel: Array) -> Array:
  """[3, H + k - 1, W + k - 1] -> [3, H, W]: 21 x 21 weights cost 1/20 of the direct sum."""
  height, width = (side - len(kernel) + 1 for side in image.shape[1:])
  sides = tuple(next_fast_len(side, real=True) for side in image.shape[1:])
  product = jnp.fft.rfft2(image, sides) * jnp.conj(jnp.fft.rfft2(kernel[None], sides))
  return jnp.fft.irfft2(product, sides)[:, :height, :width]


def in_blocks(image: Array, kernel: Array) -> Array:
  """The same by a convolution that has the pixels of 8 x 8 blocks as channels."""
  width = len(kernel)
  sides = [side - width + 1 for side in image.shape[1:]]
  taps, counts = -(-(BLOCK + width - 1) // BLOCK), [-(-side // BLOCK) for side in sides]
  wide = [(count + taps - 1) * BLOCK for count in counts]
  rest = [(0, max(0, new - old)) for new, old in zip(wide, image.shape[1:], strict=True)]
  image = jnp.pad(image, ((0, 0), *rest))[:, : wide[0], : wide[1]]
  # The weight that leads from pixel i of the block t blocks on to pixel o of a block.
  t, i, o = np.ogrid[:taps, :BLOCK, :BLOCK]
  place = BLOCK * t + i - o
  place = np.where((place >= 0) & (place < width), place, width)  # One more, which is zero.
  weights = jnp.pad(kernel, (0, 1))[place[:, None, :, None, :, None], place[None, :, None, :, None]]
  weights = weights.reshape(taps, taps, BLOCK**2, BLOCK**2)
  rows, columns = (side // BLOCK for side in wide)
  blocks = image.reshape(3, rows, BLOCK, columns, BLOCK).transpose(0, 1, 3, 2, 4)
  blocks = jax.lax.conv_general_dilated(
    blocks.reshape(3, rows, columns, BLOCK**2),
    weights,
    (1, 1),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=Precision.HIGHEST,
  )
  rows, columns = counts
  pixels = blocks.reshape(3, rows, columns, BLOCK, BLOCK).transpose(0, 1, 3, 2, 4)
  return pixels.reshape(3, rows * BLOCK, columns * BLOCK)[:, : sides[0], : sides[1]]


def along(image: Array, rows: Array, columns: Array) -> Array:
  """`rows` @ image @ `columns`ᵀ for each channel, [3, H, W] -> [3, h, w], in full precision."""
  image = jnp.einsum('oh,chw->cow', rows, image, precision=Precision.HIGHEST)
  return jnp.einsum('cow,pw->cop', image, columns, precision=Precision.HIGHEST)
