"""Owns the KL autoencoder (diffusers' AutoencoderKL)."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from cdd.core.types import Array
from cdd.models.blocks import Downsample2D, GroupNorm, ResnetBlock2D, Upsample2D, conv
from cdd.models.ops.activations import silu
from cdd.models.ops.attention import attend


class VAEConfig(NamedTuple):
  """The fields of diffusers' config.json that the autoencoder uses.

  Attributes:
    force_upcast: whether it computes in float32 where the other networks compute in float16, which
      it may overflow.
    patch: ours alone: the side of the patches of latents that are stacked into channels, so that a
      4x autoencoder with patches of 2 gives a quarter of the positions, with 4 times the channels.
  """

  in_channels: int = 3
  out_channels: int = 3
  latent_channels: int = 4
  block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  norm_num_groups: int = 32
  scaling_factor: float = 0.18215
  shift_factor: float | None = None
  sample_size: int = 512
  use_quant_conv: bool = True
  use_post_quant_conv: bool = True
  force_upcast: bool = True
  patch: int = 1

  @property
  def factor(self) -> int:
    """Pixels per latent along one side."""
    return 2 ** (len(self.block_out_channels) - 1) * self.patch

  @property
  def channels(self) -> int:
    """Channels of the latents as the U-Net sees them."""
    return self.latent_channels * self.patch**2


def stacked(x: Array, patch: int) -> Array:
  """Patches as channels: [b, h, w, c] -> [b, h/patch, w/patch, patch² c]."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // patch, patch, w // patch, patch, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // patch, w // patch, patch * patch * c)


def spread(x: Array, patch: int) -> Array:
  """The inverse of `stacked`."""
  b, h, w, c = x.shape
  x = x.reshape(b, h, w, patch, patch, c // patch**2)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * patch, w * patch, c // patch**2)


class Attention(nnx.Module):
  """Single-head self-attention over the pixels, with its own norm."""

  def __init__(self, channels, *, groups, dtype, rngs):
    self.group_norm = GroupNorm(channels, groups, epsilon=1e-6)

    def linear():
      return nnx.Linear(channels, channels, dtype=dtype, rngs=rngs)

    self.to_q, self.to_k, self.to_v = linear(), linear(), linear()
    self.to_out = nnx.List([linear()])

  def __call__(self, x: Array) -> Array:
    b, h, w, c = x.shape
    tokens = self.group_norm(x).reshape(b, h * w, c)
    out = attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), heads=1)
    return x + self.to_out[0](out).reshape(b, h, w, c)


class MidBlock(nnx.Module):
  def __init__(self, channels, *, groups, dtype, rngs):
    def make():
      return ResnetBlock2D(channels, channels, groups=groups, epsilon=1e-6, dtype=dtype, rngs=rngs)

    self.resnets = nnx.List([make(), make()])
    self.attentions = nnx.List([Attention(channels, groups=groups, dtype=dtype, rngs=rngs)])

  def __call__(self, x: Array) -> Array:
    return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Level(nnx.Module):
  """The residual blocks of one resolution and the change to the next."""

  def __init__(self, inputs, outputs, *, layers, groups, change, dtype, rngs):
    self.resnets = nnx.List(
      [
        ResnetBlock2D(
          inputs if index == 0 else outputs,
          outputs,
          groups=groups,
          epsilon=1e-6,
          dtype=dtype,
          rngs=rngs,
        )
        for index in range(layers)
      ]
    )
    if change == 'down':
      down = Downsample2D(outputs, asymmetric=True, dtype=dtype, rngs=rngs)
      self.downsamplers = nnx.List([down])
    if change == 'up':
      self.upsamplers = nnx.List([Upsample2D(outputs, dtype=dtype, rngs=rngs)])

  def __call__(self, x: Array) -> Array:
    for resnet in self.resnets:
      x = resnet(x)
    for change in [*getattr(self, 'downsamplers', ()), *getattr(self, 'upsamplers', ())]:
      x = change(x)
    return x


class Encoder(nnx.Module):
  def __init__(self, config: VAEConfig, *, dtype, rngs):
    widths, groups = config.block_out_channels, config.norm_num_groups
    self.conv_in = conv(config.in_channels, widths[0], 3, dtype=dtype, rngs=rngs)
    last = len(widths) - 1
    self.down_blocks = nnx.List(
      [
        Level(
          widths[max(index - 1, 0)],
          width,
          layers=config.layers_per_block,
          groups=groups,
          change='down' if index < last else None,
          dtype=dtype,
          rngs=rngs,
        )
        for index, width in enumerate(widths)
      ]
    )
    self.mid_block = MidBlock(widths[-1], groups=groups, dtype=dtype, rngs=rngs)
    self.conv_norm_out = GroupNorm(widths[-1], groups, epsilon=1e-6)
    self.conv_out = conv(widths[-1], 2 * config.latent_channels, 3, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    x = self.conv_in(x)
    for block in self.down_blocks:
      x = block(x)
    return self.conv_out(silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
  def __init__(self, config: VAEConfig, *, dtype, rngs):
    widths, groups = config.block_out_channels[::-1], config.norm_num_groups
    self.conv_in = conv(config.latent_channels, widths[0], 3, dtype=dtype, rngs=rngs)
    self.mid_block = MidBlock(widths[0], groups=groups, dtype=dtype, rngs=rngs)
    last = len(widths) - 1
    self.up_blocks = nnx.List(
      [
        Level(
          widths[max(index - 1, 0)],
          width,
          layers=config.layers_per_block + 1,
          groups=groups,
          change='up' if index < last else None,
          dtype=dtype,
          rngs=rngs,
        )
        for index, width in enumerate(widths)
      ]
    )
    self.conv_norm_out = GroupNorm(widths[-1], groups, epsilon=1e-6)
    self.conv_out = conv(widths[-1], config.out_channels, 3, dtype=dtype, rngs=rngs)

  def __call__(self, z: Array) -> Array:
    z = self.mid_block(self.conv_in(z))
    for block in self.up_blocks:
      z = block(z)
    return self.conv_out(silu(self.conv_norm_out(z)))


class AutoencoderKL(nnx.Module):
  """Images [b, H, W, 3] in [-1, 1] <-> latents [b, H/f, W/f, c], f = config.factor."""

  def __init__(self, config: VAEConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    double = 2 * config.latent_channels
    self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
    self.decoder = Decoder(config, dtype=dtype, rngs=rngs)
    single = config.latent_channels
    if config.use_quant_conv:
      self.quant_conv = conv(double, double, 1, dtype=dtype, rngs=rngs)
    if config.use_post_quant_conv:
      self.post_quant_conv = conv(single, single, 1, dtype=dtype, rngs=rngs)
    self.config = config

  def encode(self, images: Array) -> tuple[Array, Array]:
    """Mean and log-variance (clipped to [-30, 20]) of the latents, unscaled, float32."""
    moments = self.encoder(images)
    if self.config.use_quant_conv:
      moments = self.quant_conv(moments)
    halves = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    mean, log_variance = (stacked(half, self.config.patch) for half in halves)
    return mean, jnp.clip(log_variance, -30, 20)

  def decode(self, latents: Array) -> Array:
    """Unscaled latents -> images, float32."""
    latents = spread(latents, self.config.patch)
    if self.config.use_post_quant_conv:
      latents = self.post_quant_conv(latents)
    return self.decoder(latents).astype(jnp.float32)
