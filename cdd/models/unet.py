"""Owns the U-Net (diffusers' UNet2DConditionModel), cut where adapters plug in: encode, decode."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from cdd.models.blocks import Downsample2D, GroupNorm, ResnetBlock2D, Upsample2D, conv, silu
from cdd.models.transformer import Transformer2DModel
from cdd.types import Array, Text


class UNetConfig(NamedTuple):
  """The fields of diffusers' config.json that the U-Net uses.

  `attention_head_dim` is the *number* of heads (one, or one per level), as in diffusers' own files.
  """

  in_channels: int = 4
  out_channels: int = 4
  block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
  down_block_types: tuple[str, ...] = ('CrossAttnDownBlock2D',) * 3 + ('DownBlock2D',)
  up_block_types: tuple[str, ...] = ('UpBlock2D',) + ('CrossAttnUpBlock2D',) * 3
  layers_per_block: int = 2
  cross_attention_dim: int = 768
  attention_head_dim: int | tuple[int, ...] = 8
  transformer_layers_per_block: int = 1
  norm_num_groups: int = 32
  norm_eps: float = 1e-5
  use_linear_projection: bool = False
  freq_shift: int = 0
  flip_sin_to_cos: bool = True
  sample_size: int = 64

  def heads(self, level: int) -> int:
    dim = self.attention_head_dim
    return dim if isinstance(dim, int) else dim[level]


class Features(NamedTuple):
  """What the encoder hands to the decoder.

  Attributes:
    skips: one [b, h, w, c] per encoder layer, the first being conv_in's output.
    mid: the output of the middle block.
    emb: [b, e] time embedding.
  """

  skips: tuple[Array, ...]
  mid: Array
  emb: Array


def sinusoid(index: Array, channels: int, *, flip: bool, shift: float) -> Array:
  """Sinusoidal embedding [b] -> [b, channels] (diffusers' get_timestep_embedding)."""
  half = channels // 2
  rates = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
  angles = index.astype(jnp.float32)[:, None] * rates[None, :]
  waves = [jnp.cos(angles), jnp.sin(angles)] if flip else [jnp.sin(angles), jnp.cos(angles)]
  return jnp.concatenate(waves, axis=-1)


class TimestepEmbedding(nnx.Module):
  def __init__(self, channels, embedding, *, dtype, rngs):
    self.linear_1 = nnx.Linear(channels, embedding, dtype=dtype, rngs=rngs)
    self.linear_2 = nnx.Linear(embedding, embedding, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    return self.linear_2(silu(self.linear_1(x)))


class Level(nnx.Module):
  """The layers of one resolution: residual blocks, transformers if `heads`, a resampler."""

  def __init__(self, config, channels, outputs, *, heads, change, dtype, rngs):
    """`channels`: the input channels of each residual block."""
    shared = dict(groups=config.norm_num_groups, dtype=dtype, rngs=rngs)
    embedding = 4 * config.block_out_channels[0]
    resnet = lambda inputs: ResnetBlock2D(
      inputs, outputs, epsilon=config.norm_eps, embedding=embedding, **shared
    )
    if heads:
      self.attentions = nnx.List([attention(config, outputs, heads, shared) for _ in channels])
    self.resnets = nnx.List([resnet(inputs) for inputs in channels])
    if change == 'down':
      self.downsamplers = nnx.List([Downsample2D(outputs, dtype=dtype, rngs=rngs)])
    if change == 'up':
      self.upsamplers = nnx.List([Upsample2D(outputs, dtype=dtype, rngs=rngs)])

  def layer(self, index: int, x: Array, emb: Array, text: Array) -> Array:
    x = self.resnets[index](x, emb)
    return self.attentions[index](x, text) if hasattr(self, 'attentions') else x


class MidBlock(nnx.Module):
  def __init__(self, config, *, dtype, rngs):
    channels = config.block_out_channels[-1]
    shared = dict(groups=config.norm_num_groups, dtype=dtype, rngs=rngs)
    embedding = 4 * config.block_out_channels[0]
    resnet = lambda: ResnetBlock2D(
      channels, channels, epsilon=config.norm_eps, embedding=embedding, **shared
    )
    self.attentions = nnx.List([attention(config, channels, config.heads(-1), shared)])
    self.resnets = nnx.List([resnet(), resnet()])

  def __call__(self, x: Array, emb: Array, text: Array) -> Array:
    return self.resnets[1](self.attentions[0](self.resnets[0](x, emb), text), emb)


def attention(config: UNetConfig, channels: int, heads: int, shared: dict) -> Transformer2DModel:
  return Transformer2DModel(
    channels,
    config.cross_attention_dim,
    heads=heads,
    depth=config.transformer_layers_per_block,
    linear=config.use_linear_projection,
    **shared,
  )


def level_heads(kind: str, config: UNetConfig, level: int) -> int | None:
  """The number of heads of a level, or None without attention; unknown kinds are an error."""
  kinds = dict(
    DownBlock2D=False, UpBlock2D=False, CrossAttnDownBlock2D=True, CrossAttnUpBlock2D=True
  )
  if kind not in kinds:
    raise ValueError(f'Unknown U-Net block {kind!r}; choose from {sorted(kinds)}.')
  return config.heads(level) if kinds[kind] else None


class Encoder(nnx.Module):
  """The half that μ-mixing and ControlNet duplicate: time embedding, conv_in, down blocks, mid."""

  def __init__(self, config: UNetConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    widths = config.block_out_channels
    self.conv_in = conv(config.in_channels, widths[0], 3, dtype=dtype, rngs=rngs)
    self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0], dtype=dtype, rngs=rngs)
    down = []
    for level, (kind, width) in enumerate(zip(config.down_block_types, widths, strict=True)):
      inputs = [widths[max(level - 1, 0)]] + [width] * (config.layers_per_block - 1)
      heads = level_heads(kind, config, level)
      change = 'down' if level < len(widths) - 1 else None
      down.append(Level(config, inputs, width, heads=heads, change=change, dtype=dtype, rngs=rngs))
    self.down_blocks = nnx.List(down)
    self.mid_block = MidBlock(config, dtype=dtype, rngs=rngs)
    self.config = config

  def embed(self, index: Array, text: Text) -> Array:
    """The embedding [b, e] of the time and of what else the prompt holds."""
    config = self.config
    width = config.block_out_channels[0]
    waves = sinusoid(index, width, flip=config.flip_sin_to_cos, shift=config.freq_shift)
    return self.time_embedding(waves)

  def encode(
    self, z: Array, index: Array, text: Text, *, hint: Array | None = None, residuals=None
  ) -> Features:
    """The encoder's features.

    Args:
      z: [b, h, w, c] latents.
      index: [b] the backbone's own time index.
      text: the prompt.
      hint: added to conv_in's output (ControlNet).
      residuals: one [b, h, w, c] per level, added to its last layer (T2I-Adapter).
    """
    emb = self.embed(index, text)
    x = self.conv_in(z)
    x = x if hint is None else x + hint
    skips = [x]
    for level, block in enumerate(self.down_blocks):
      last = len(block.resnets) - 1
      for layer in range(last + 1):
        x = block.layer(layer, x, emb, text.states)
        x = x + residuals[level] if residuals is not None and layer == last else x
        skips.append(x)
      for down in getattr(block, 'downsamplers', ()):
        x = down(x)
        skips.append(x)
    return Features(tuple(skips), self.mid_block(x, emb, text.states), emb)


class UNet2DConditionModel(Encoder):
  """(z [b, h, w, c], index [b], text) -> the prediction [b, h, w, k], float32."""

  def __init__(self, config: UNetConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    super().__init__(config, dtype=dtype, rngs=rngs)
    widths = config.block_out_channels[::-1]
    skips = skip_channels(config)
    up, below = [], widths[0]
    for level, (kind, width) in enumerate(zip(config.up_block_types, widths, strict=True)):
      inputs = []
      for _ in range(config.layers_per_block + 1):
        inputs.append(below + skips.pop())
        below = width
      heads = level_heads(kind, config, len(widths) - 1 - level)
      change = 'up' if level < len(widths) - 1 else None
      up.append(Level(config, inputs, width, heads=heads, change=change, dtype=dtype, rngs=rngs))
    self.up_blocks = nnx.List(up)
    self.conv_norm_out = GroupNorm(widths[-1], config.norm_num_groups, epsilon=config.norm_eps)
    self.conv_out = conv(widths[-1], config.out_channels, 3, dtype=dtype, rngs=rngs)

  def decode(self, features: Features, text: Text) -> Array:
    skips, x, emb = list(features.skips), features.mid, features.emb
    for block in self.up_blocks:
      for layer in range(len(block.resnets)):
        x = block.layer(layer, jnp.concatenate([x, skips.pop()], axis=-1), emb, text.states)
      for up in getattr(block, 'upsamplers', ()):
        x = up(x)
    return self.conv_out(silu(self.conv_norm_out(x))).astype(jnp.float32)

  def __call__(self, z: Array, index: Array, text: Text) -> Array:
    return self.decode(self.encode(z, index, text), text)


def skip_channels(config: UNetConfig) -> list[int]:
  """The channels of every skip, in the encoder's order."""
  widths, last = config.block_out_channels, len(config.block_out_channels) - 1
  channels = [widths[0]]
  for level, width in enumerate(widths):
    channels += [width] * (config.layers_per_block + (level < last))
  return channels
