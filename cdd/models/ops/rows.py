"""Owns chains of convolutions that begin with few channels; on TPUs a row's pixels go in groups.

A TPU pads channels to 128: a picture of 16 takes eight times its memory and products. Eight pixels
of a row with 16 channels each are one with 128, without moving anything, and a kernel with zeros at
its further taps is the same convolution. A stride of 2 halves the group where the channels double.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cdd.core.types import Array
from cdd.models.ops.activations import silu


def chain(layers: Sequence[nnx.Conv], x: Array) -> Array:
  """Convolutions of 3 x 3 taps with SiLU between them, [b, h, w, c] -> [b, h/s, w/s, d].

  Args:
    layers: of `blocks.conv`; s is the product of their strides.
  """
  strides = tuple(layer.strides for layer in layers)
  arrays = jax.tree.map(lambda a: a.astype(layers[0].dtype), [x, *map(weights, layers)])
  group = math.gcd(math.prod(strides), x.shape[2])
  ways = dict(tpu=partial(by_groups, group=group), default=one_by_one)
  ways = {name: partial(way, strides=strides) for name, way in ways.items()}
  return jax.lax.platform_dependent(*arrays, **ways)


def weights(layer: nnx.Conv) -> tuple[Array, Array]:
  return layer.kernel[...], layer.bias[...]


@partial(jax.jit, static_argnames=('strides', 'group'))
def by_groups(
  x: Array, *layers: tuple[Array, Array], strides: tuple[int, ...], group: int
) -> Array:
  """Group: how many pixels of a row are one at the start; `runs.counting` knows it by its name."""
  x = x.reshape(*x.shape[:2], x.shape[2] // group, -1)
  return one_by_one(x, *layers, strides=strides, group=group)


def one_by_one(x, *layers, strides, group: int = 1) -> Array:
  for place, ((kernel, bias), stride) in enumerate(zip(layers, strides, strict=True)):
    x = convolve(silu(x) if place else x, kernel, bias, stride, group)
    group = max(group // stride, 1)
  return x


def convolve(x: Array, kernel: Array, bias: Array, stride: int, group: int) -> Array:
  """A convolution of a picture with groups of pixels as channels, [b, h, w/group, group c]."""
  if group > 1:
    kernel, bias = spread(kernel, stride, group), jnp.tile(bias, group // stride)
  strides, pads = (stride, 1 if group > 1 else stride), ((1, 1), (1, 1))
  order = ('NHWC', 'HWIO', 'NHWC')
  out = jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=order)
  return out + bias[None, None, None]


def spread(kernel: Array, stride: int, group: int) -> Array:
  """[3, 3, c, d] -> [3, 3, group c, group/stride d]: every output's taps on three groups."""

  def output(place: int) -> Array:
    before = group - 1 + stride * place
    pads = ((0, 0), (before, 3 * (group - 1) - before), (0, 0), (0, 0))
    return jnp.pad(kernel, pads).reshape(3, 3, -1, kernel.shape[-1])

  return jnp.concatenate([output(place) for place in range(group // stride)], -1)
