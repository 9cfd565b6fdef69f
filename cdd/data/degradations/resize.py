"""Owns resizing between sizes that are traced: two matrices, on canvases of fixed size.

The arithmetic of the three modes is that of torch.nn.functional.interpolate (align_corners=False,
antialias=False), which Real-ESRGAN uses.
"""

import jax
import jax.numpy as jnp

from cdd.core.types import Array
from cdd.data.degradations import filters

MODES = ('area', 'bilinear', 'bicubic')
A = -0.75  # PyTorch's cubic coefficient; Pillow and MATLAB have -0.5.


def _hot(positions: Array, length: int) -> Array:
  """One row per position, 1 there and 0 elsewhere: [n, length]."""
  return (positions[:, None] == jnp.arange(length)[None]).astype(jnp.float32)


def _area(before: Array, after: Array, step: Array, shape: tuple[int, int]) -> Array:
  """Means of the pixels that a new pixel touches (adaptive_avg_pool2d)."""
  del step
  out, position = jnp.arange(shape[0])[:, None], jnp.arange(shape[1])[None]
  start, end = out * before // after, -(-(out + 1) * before // after)
  touched = (position >= start) & (position < end)
  return touched / (end - start).astype(jnp.float32)


def _bilinear(before: Array, after: Array, step: Array, shape: tuple[int, int]) -> Array:
  del after
  source = jnp.maximum((jnp.arange(shape[0]) + 0.5) * step - 0.5, 0)
  first = jnp.floor(source)
  part = (source - first)[:, None]
  first = jnp.minimum(first.astype(jnp.int32), before - 1)
  second = jnp.minimum(first + 1, before - 1)
  return (1 - part) * _hot(first, shape[1]) + part * _hot(second, shape[1])


def _near(x: Array) -> Array:
  """The cubic kernel for 0 <= x <= 1."""
  return ((A + 2) * x - (A + 3)) * x * x + 1


def _far(x: Array) -> Array:
  """The cubic kernel for 1 <= x <= 2."""
  return ((A * x - 5 * A) * x + 8 * A) * x - 4 * A


def _bicubic(before: Array, after: Array, step: Array, shape: tuple[int, int]) -> Array:
  del after
  source = (jnp.arange(shape[0]) + 0.5) * step - 0.5
  first = jnp.floor(source)
  part = (source - first)[:, None]
  first = first.astype(jnp.int32)
  weights = _far(1 + part), _near(part), _near(1 - part), _far(2 - part)
  taps = [jnp.clip(first + n, 0, before - 1) for n in (-1, 0, 1, 2)]
  return sum(weight * _hot(tap, shape[1]) for weight, tap in zip(weights, taps, strict=True))


def matrix(mode: Array, before: Array, after: Array, step: Array, shape: tuple[int, int]) -> Array:
  """Interpolates an axis of a canvas: float32 of `shape`, (the new canvas, the old one).

  Args:
    mode: the index of a mode in MODES.
    before, after: how many pixels of the old and the new canvas the image fills. The matrix is zero
      in what lies outside.
    step: old pixels per new pixel, as PyTorch takes it: before / after where the new size is asked
      for, or 1 / scale where a scale is; then the new size is the floor of scale · before.
  """
  ways = [lambda way=way: way(before, after, step, shape) for way in (_area, _bilinear, _bicubic)]
  weights = jax.lax.switch(mode, ways)
  return jnp.where(jnp.arange(shape[0])[:, None] < after, weights, 0)


def resized(
  image: Array,
  mode: Array,
  before: filters.Size,
  after: filters.Size,
  steps: tuple[Array, Array],
  canvas: tuple[int, int],
) -> Array:
  """An image [3, H, W] of size `before` at the size `after`, on a `canvas` of fixed size."""
  numbers = zip(before, after, steps, canvas, image.shape[1:], strict=True)
  rows, columns = (matrix(mode, b, a, step, shape) for b, a, step, *shape in numbers)
  return filters.along(image, rows, columns)
