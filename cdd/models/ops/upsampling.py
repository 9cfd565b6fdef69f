"""Owns nearest-neighbour upsampling followed by a convolution, without the enlarged array."""

import jax
import jax.numpy as jnp
from flax import nnx

from cdd.core.types import Array


def enlarge(x: Array) -> Array:
  """Nearest-neighbour x2: [b, h, w, c] -> [b, 2h, 2w, c]."""
  b, h, w, c = x.shape
  return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def phases(kernel: Array) -> Array:
  """[3, ...] -> [2, 2, ...]: what three taps on enlarged pixels are on the two pixels they meet.

  The even pixels of the enlarged row come first, the odd ones second.
  """
  first, middle, last = kernel
  even, odd = (first, middle + last), (first + middle, last)
  return jnp.stack([jnp.stack(even), jnp.stack(odd)])


def enlarged(conv: nnx.Conv, x: Array) -> Array:
  """conv(enlarge(x)) of a convolution of 3 x 3 taps, [b, h, w, c] -> [b, 2h, 2w, d]."""
  kernel, bias, x = conv.kernel[...], conv.bias[...].astype(conv.dtype), x.astype(conv.dtype)
  convolved = jax.lax.platform_dependent(x, kernel, tpu=directly, default=by_phases)
  return convolved + bias[None, None, None]


def directly(x: Array, kernel: Array) -> Array:
  """The convolution of the enlarged array: on TPUs the faster way (docs/performance.md)."""
  pads = ((1, 1), (1, 1))
  return convolve(enlarge(x), kernel.astype(x.dtype), pads)


def by_phases(x: Array, kernel: Array) -> Array:
  """Each of the output's four phases is a 2 x 2 convolution of x: 4/9 of the products."""
  kernel = phases(jnp.moveaxis(phases(kernel.swapaxes(0, 1)), 2, 0)).astype(x.dtype)

  def phase(row: int, column: int) -> Array:
    pads = ((1 - row, row), (1 - column, column))
    return convolve(x, kernel[row, :, column], pads)

  rows = [jnp.stack([phase(row, column) for column in (0, 1)], 3) for row in (0, 1)]
  b, h, w, _ = x.shape
  return jnp.stack(rows, 2).reshape(b, 2 * h, 2 * w, -1)


def convolve(x: Array, kernel: Array, pads: tuple) -> Array:
  order = ('NHWC', 'HWIO', 'NHWC')
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=order)
