"""Owns the layers that the U-Net and the autoencoder share, named as diffusers names them."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from cdd.core.types import Array
from cdd.models.ops.activations import silu
from cdd.models.ops.upsampling import enlarge, enlarged


def conv(
  inputs: int,
  outputs: int,
  kernel: int,
  *,
  dtype,
  rngs,
  stride: int = 1,
  zero: bool = False,
  bias: bool = True,
):
  """A convolution padded by kernel // 2 on both sides, as PyTorch pads it."""
  pad = kernel // 2
  zeros = dict(kernel_init=nnx.initializers.zeros) if zero else {}
  return nnx.Conv(
    inputs,
    outputs,
    (kernel, kernel),
    strides=stride,
    padding=((pad, pad), (pad, pad)),
    use_bias=bias,
    dtype=dtype,
    rngs=rngs,
    **zeros,
  )


class GroupNorm(nnx.Module):
  """Group normalisation in float32: the moments of every channel, then one scale and one shift.

  nnx.GroupNorm reduces over groups of channels, on XLA's CPU backend two to four times slower.
  """

  def __init__(self, channels: int, groups: int, *, epsilon: float):
    self.scale = nnx.Param(jnp.ones(channels))
    self.bias = nnx.Param(jnp.zeros(channels))
    self.groups, self.epsilon = groups, epsilon

  def __call__(self, x: Array) -> Array:
    x = x.astype(jnp.float32)
    mean, square = self.of_groups(x.mean((1, 2))), self.of_groups((x * x).mean((1, 2)))
    variance = jnp.maximum(square - mean * mean, 0)
    scale = self.scale[None] * jax.lax.rsqrt(variance + self.epsilon)
    shift = self.bias[None] - mean * scale
    return x * scale[:, None, None] + shift[:, None, None]

  def of_groups(self, moments: Array) -> Array:
    """Moments of channels [b, c], averaged over the channels of each group, [b, c] again."""
    b, c = moments.shape
    means = moments.reshape(b, self.groups, -1).mean(-1)
    return jnp.repeat(means, c // self.groups, axis=1)


class ResnetBlock2D(nnx.Module):
  """Two normalised convolutions around a time embedding, with a shortcut."""

  def __init__(self, inputs, outputs, *, groups, epsilon, embedding=None, dtype, rngs):
    self.norm1 = GroupNorm(inputs, groups, epsilon=epsilon)
    self.conv1 = conv(inputs, outputs, 3, dtype=dtype, rngs=rngs)
    if embedding:
      self.time_emb_proj = nnx.Linear(embedding, outputs, dtype=dtype, rngs=rngs)
    self.norm2 = GroupNorm(outputs, groups, epsilon=epsilon)
    self.conv2 = conv(outputs, outputs, 3, dtype=dtype, rngs=rngs)
    if inputs != outputs:
      self.conv_shortcut = conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, emb: Array | None = None) -> Array:
    h = checkpoint_name(self.conv1(silu(self.norm1(x))), 'convolution')
    if emb is not None:
      h = h + self.time_emb_proj(silu(emb))[:, None, None, :]
    h = checkpoint_name(self.conv2(silu(self.norm2(h))), 'convolution')
    return (self.conv_shortcut(x) if hasattr(self, 'conv_shortcut') else x) + h


class Downsample2D(nnx.Module):
  """A stride-2 convolution; the autoencoder pads below and to the right alone."""

  def __init__(self, channels, *, asymmetric=False, dtype, rngs):
    self.conv = nnx.Conv(
      channels,
      channels,
      (3, 3),
      strides=2,
      padding=((0, 1), (0, 1)) if asymmetric else ((1, 1), (1, 1)),
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, x: Array) -> Array:
    return self.conv(x)


class Upsample2D(nnx.Module):
  """Nearest-neighbour x2 and a convolution."""

  def __init__(self, channels, *, dtype, rngs):
    self.conv = conv(channels, channels, 3, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, size: tuple[int, int] | None = None) -> Array:
    """`size`: height and width of the output, where the input was the larger half of an odd one."""
    height, width = size or (None, None)
    if size in (None, (2 * x.shape[1], 2 * x.shape[2])):
      return enlarged(self.conv, x)
    # What is cut off is not seen by the convolution, which pads with zeros there.
    return self.conv(enlarge(x)[:, :height, :width])
