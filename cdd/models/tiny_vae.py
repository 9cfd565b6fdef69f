"""Owns the tiny autoencoder (diffusers' AutoencoderTiny; TAESD)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cdd.core.types import Array
from cdd.models.blocks import conv
from cdd.models.ops.upsampling import enlarge


class TinyConfig(NamedTuple):
  """The fields of diffusers' config.json that the tiny autoencoder uses, with its defaults.

  Attributes:
    num_encoder_blocks, num_decoder_blocks: residual blocks of each level.
    force_upcast: whether it computes in float32 where the other networks compute in float16.
  """

  in_channels: int = 3
  out_channels: int = 3
  latent_channels: int = 4
  encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
  decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
  num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
  num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
  scaling_factor: float = 1.0
  shift_factor: float | None = 0.0
  force_upcast: bool = False

  @property
  def factor(self) -> int:
    """Pixels per latent along one side."""
    return 2 ** (len(self.encoder_block_out_channels) - 1)

  @property
  def channels(self) -> int:
    """Channels of the latents as the U-Net sees them."""
    return self.latent_channels


class Relu(nnx.Module):
  """A layer without parameters, which torch counts."""

  def __call__(self, x: Array) -> Array:
    return jax.nn.relu(x)


class Enlarge(nnx.Module):
  """Nearest-neighbour x2."""

  def __call__(self, x: Array) -> Array:
    return enlarge(x)


class Block(nnx.Module):
  """Three convolutions beside a shortcut."""

  def __init__(self, width: int, *, dtype, rngs):
    def three():
      return conv(width, width, 3, dtype=dtype, rngs=rngs)

    self.conv = nnx.List([three(), Relu(), three(), Relu(), three()])

  def __call__(self, x: Array) -> Array:
    return jax.nn.relu(x + applied(self.conv, x))


def applied(layers: nnx.List, x: Array) -> Array:
  for layer in layers:
    x = layer(x)
  return x


class Encoder(nnx.Module):
  """Images in [0, 1] -> latents."""

  def __init__(self, config: TinyConfig, *, dtype, rngs):
    shared, layers = dict(dtype=dtype, rngs=rngs), []
    widths = config.encoder_block_out_channels
    for level, (width, count) in enumerate(zip(widths, config.num_encoder_blocks, strict=True)):
      halves = conv(width, width, 3, stride=2, bias=False, **shared) if level else None
      layers.append(halves or conv(config.in_channels, width, 3, **shared))
      layers += [Block(width, **shared) for _ in range(count)]
    layers.append(conv(widths[-1], config.latent_channels, 3, **shared))
    self.layers = nnx.List(layers)

  def __call__(self, x: Array) -> Array:
    return applied(self.layers, x)


class Decoder(nnx.Module):
  """Latents -> images, about [0, 1]."""

  def __init__(self, config: TinyConfig, *, dtype, rngs):
    shared, widths = dict(dtype=dtype, rngs=rngs), config.decoder_block_out_channels
    layers = [conv(config.latent_channels, widths[0], 3, **shared), Relu()]
    for level, (width, count) in enumerate(zip(widths, config.num_decoder_blocks, strict=True)):
      layers += [Block(width, **shared) for _ in range(count)]
      if level < len(widths) - 1:
        layers += [Enlarge(), conv(width, width, 3, bias=False, **shared)]
    layers.append(conv(widths[-1], config.out_channels, 3, **shared))
    self.layers = nnx.List(layers)

  def __call__(self, z: Array) -> Array:
    return applied(self.layers, 3 * jnp.tanh(z / 3))


class AutoencoderTiny(nnx.Module):
  """Images [b, H, W, 3] in [-1, 1] <-> latents [b, H/f, W/f, c], f = config.factor."""

  def __init__(self, config: TinyConfig, *, dtype=jnp.float32, rngs):
    self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
    self.decoder = Decoder(config, dtype=dtype, rngs=rngs)

  def encode(self, images: Array) -> tuple[Array, Array]:
    """The latents, unscaled, float32, and the log-variance that stands for none."""
    latents = self.encoder((images + 1) / 2).astype(jnp.float32)
    return latents, jnp.full_like(latents, -30)

  def decode(self, latents: Array) -> Array:
    """Unscaled latents -> images, float32."""
    return 2 * self.decoder(latents).astype(jnp.float32) - 1
