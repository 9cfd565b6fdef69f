"""Owns nearest-neighbour upsampling followed by a convolution, without the enlarged array."""

import jax
import jax.numpy as jnp
from flax import nnx

from cdd.core.types import Array
from cdd.models.ops.parts import parts

# On a TPU, pictures of fewer positions than so many times their channels are enlarged and then
# convolved (docs/performance.md).
FEW = 2


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
  images, height, width, channels = x.shape
  few = images // parts('data', 'fsdp') * height * width < FEW * channels
  ways = dict(tpu=directly if few else dilated, default=by_phases)
  convolved = jax.lax.platform_dependent(x, kernel, **ways)
  return convolved + bias[None, None, None]


def directly(x: Array, kernel: Array) -> Array:
  """The convolution of the enlarged array."""
  pads = ((1, 1), (1, 1))
  return convolve(enlarge(x), kernel.astype(x.dtype), pads)


def dilated(x: Array, kernel: Array) -> Array:
  """One convolution of 4 x 4 taps of x with zeros between its pixels."""

  def spread(taps):
    return jnp.pad(taps, ((0, 1), *[(0, 0)] * 3)) + jnp.pad(taps, ((1, 0), *[(0, 0)] * 3))

  kernel = spread(spread(kernel).swapaxes(0, 1)).swapaxes(0, 1).astype(x.dtype)
  return convolve(x, kernel, ((2, 2), (2, 2)), zeros=1)


def by_phases(x: Array, kernel: Array) -> Array:
  """Each of the output's four phases is a 2 x 2 convolution of x: 4/9 of the products."""
  kernel = phases(jnp.moveaxis(phases(kernel.swapaxes(0, 1)), 2, 0)).astype(x.dtype)

  def phase(row: int, column: int) -> Array:
    pads = ((1 - row, row), (1 - column, column))
    return convolve(x, kernel[row, :, column], pads)

  rows = [jnp.stack([phase(row, column) for column in (0, 1)], 3) for row in (0, 1)]
  b, h, w, _ = x.shape
  return jnp.stack(rows, 2).reshape(b, 2 * h, 2 * w, -1)


def convolve(x: Array, kernel: Array, pads: tuple, *, zeros: int = 0) -> Array:
  """A convolution [b, h, w, c], [k, k, c, d]; with some zeros between the pixels."""
  settings = dict(lhs_dilation=(1 + zeros,) * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, **settings)
