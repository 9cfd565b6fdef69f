"""Owns LPIPS v0.1 with AlexNet (Zhang et al., 2018; the `lpips` package) and its features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from cdd import assets
from cdd.core.errors import UserError
from cdd.core.types import Array, Params
from cdd.metrics.metric import mean_of

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
LEAST = 32
# torchvision's indices: (index, stride, padding, max-pool before)
LAYERS = ((0, 4, 2, False), (3, 1, 2, True), (6, 1, 1, True), (8, 1, 1, False), (10, 1, 1, False))


@functools.cache
def load() -> Params:
  """The packaged weights, float32 on the host, kernels in HWIO; the trunk is stored as float16."""
  torch_layout = load_file(assets.LPIPS)
  return {
    name: np.asarray(leaf.transpose(2, 3, 1, 0) if leaf.ndim == 4 else leaf, np.float32)
    for name, leaf in torch_layout.items()
  }


def features(params: Params, images: Array) -> list[Array]:
  """The five ReLU taps of AlexNet: images [b, H, W, 3] in [0, 1] -> [b, h, w, c] each."""
  x = (2 * images - 1 - jnp.array(SHIFT)[None, None, None]) / jnp.array(SCALE)[None, None, None]
  taps = []
  for index, stride, padding, pool in LAYERS:
    x = _pool(x) if pool else x
    x = jax.lax.conv_general_dilated(
      x,
      params[f'features.{index}.weight'],
      (stride, stride),
      ((padding, padding),) * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = jax.nn.relu(x + params[f'features.{index}.bias'][None, None, None])
    taps.append(x)
  return taps


def lpips(params: Params, a: Array, b: Array) -> Array:
  """The perceptual distance [b] of images [b, H, W, 3] in [0, 1].

  Raises:
    UserError: a side is shorter than 32 pixels, of which nothing is left in the last layers.
  """
  if min(a.shape[1:3]) < LEAST:
    size = ' x '.join(map(str, a.shape[1:3]))
    raise UserError(f'LPIPS needs images of {LEAST} x {LEAST} pixels or more, not of {size}.')
  total = jnp.zeros(a.shape[0], jnp.float32)
  pairs = zip(features(params, a), features(params, b), strict=True)
  for index, (one, other) in enumerate(pairs):
    weight = params[f'lin{index}.model.1.weight'].reshape(1, 1, 1, -1)
    difference = (_normalise(one) - _normalise(other)) ** 2
    total = total + (difference * weight).sum(-1).mean((1, 2))
  return total


def of_images(a: Array, b: Array) -> Array:
  """`lpips` with the packaged weights."""
  return lpips(load(), a, b)


def _normalise(x: Array) -> Array:
  # The reference adds 1e-10 outside the root; inside it besides, so that a gradient at 0 exists.
  return x / (jnp.sqrt((x**2).sum(-1, keepdims=True) + 1e-20) + 1e-10)


def _pool(x: Array) -> Array:
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), 'VALID')


_compiled = jax.jit(lpips)
LPIPS = mean_of(
  lambda images, references: _compiled(load(), images, references),
  label='LPIPS',
  better=min,
  digits=3,
)._replace(least=LEAST)
