"""Owns the U-Net (diffusers' UNet2DConditionModel), cut where adapters act: encode, decode."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.core.types import Array, Text
from cdd.models.blocks import Downsample2D, GroupNorm, ResnetBlock2D, Upsample2D, conv
from cdd.models.ops.activations import silu
from cdd.models.remat import anew
from cdd.models.time import Time, sinusoid
from cdd.models.transformer import Transformer2DModel

ATTENDS = dict(
  DownBlock2D=False, UpBlock2D=False, CrossAttnDownBlock2D=True, CrossAttnUpBlock2D=True
)


class UNetConfig(NamedTuple):
  """The fields of diffusers' config.json that the U-Net uses, with diffusers' defaults.

  Attributes:
    layers_per_block, cross_attention_dim: one number, or one per level; the decoder mirrors it, and
      the middle attends to as many channels as the last level.
    attention_head_dim: the *number* of heads (one, or one per level), as in diffusers' own files.
    transformer_layers_per_block: blocks of each transformer (one number, or one per level); the
      decoder mirrors it, and the middle has as many as the last level.
    mid_block_type: None: there is no middle block (tiny-sd).
    upcast_attention: read and written only; the softmax is float32 here in any case.
    addition_embed_type: 'text_time': the pooled text and the sizes are added to the time (SDXL).
    addition_time_embed_dim: channels of the sinusoids of each size.
    projection_class_embeddings_input_dim: channels of the pooled text and of all sinusoids.
    time_cond_proj_dim: channels of what the network is given beside the time (`time.Beside`); None:
      it is given nothing.
  """

  in_channels: int = 4
  out_channels: int = 4
  block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
  down_block_types: tuple[str, ...] = ('CrossAttnDownBlock2D',) * 3 + ('DownBlock2D',)
  up_block_types: tuple[str, ...] = ('UpBlock2D',) + ('CrossAttnUpBlock2D',) * 3
  layers_per_block: int | tuple[int, ...] = 2
  cross_attention_dim: int | tuple[int, ...] = 1280
  attention_head_dim: int | tuple[int, ...] = 8
  transformer_layers_per_block: int | tuple[int, ...] = 1
  norm_num_groups: int = 32
  norm_eps: float = 1e-5
  mid_block_type: str | None = 'UNetMidBlock2DCrossAttn'
  use_linear_projection: bool = False
  upcast_attention: bool | None = False
  freq_shift: int = 0
  flip_sin_to_cos: bool = True
  addition_embed_type: str | None = None
  addition_time_embed_dim: int | None = None
  projection_class_embeddings_input_dim: int | None = None
  sample_size: int | tuple[int, int] | None = None
  time_cond_proj_dim: int | None = None

  def layers(self, level: int) -> int:
    return at(self.layers_per_block, level)

  def heads(self, level: int) -> int:
    return at(self.attention_head_dim, level)

  def depth(self, level: int) -> int:
    return at(self.transformer_layers_per_block, level)


def at(value: int | tuple[int, ...], level: int) -> int:
  return value if isinstance(value, int) else value[level]


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


class TimestepEmbedding(nnx.Module):
  """Two layers, and with `condition` channels a projection of those that starts at zero."""

  def __init__(self, channels, embedding, *, condition=None, dtype, rngs):
    self.linear_1 = nnx.Linear(channels, embedding, dtype=dtype, rngs=rngs)
    self.linear_2 = nnx.Linear(embedding, embedding, dtype=dtype, rngs=rngs)
    if condition:
      zeros = nnx.initializers.zeros
      self.cond_proj = nnx.Linear(
        condition, channels, use_bias=False, kernel_init=zeros, dtype=dtype, rngs=rngs
      )

  def __call__(self, x: Array, condition: Array | None = None) -> Array:
    x = x if condition is None else x + self.cond_proj(condition)
    return self.linear_2(silu(self.linear_1(x)))


class Level(nnx.Module):
  """The layers of one resolution: residual blocks, transformers if it attends, a resampler."""

  def __init__(self, config, kind, channels, outputs, *, level, change, dtype, rngs):
    """`channels`: the input channels of each residual block."""
    shared = dict(dtype=dtype, rngs=rngs)
    if choose(ATTENDS, kind, 'U-Net block'):
      self.attentions = nnx.List([attention(config, outputs, level, **shared) for _ in channels])
    self.resnets = nnx.List([resnet(config, inputs, outputs, **shared) for inputs in channels])
    if change == 'down':
      self.downsamplers = nnx.List([Downsample2D(outputs, **shared)])
    if change == 'up':
      self.upsamplers = nnx.List([Upsample2D(outputs, **shared)])
    self.attends, self.remat = ATTENDS[kind], None

  def layer(self, index: int, x: Array, emb: Array, text: Array) -> Array:
    def run(x: Array, emb: Array, text: Array) -> Array:
      x = self.resnets[index](x, emb)
      return self.attentions[index](x, text) if self.attends else x

    return anew(run, self.remat)(x, emb, text)


class MidBlock(nnx.Module):
  def __init__(self, config, *, dtype, rngs):
    channels, shared = config.block_out_channels[-1], dict(dtype=dtype, rngs=rngs)
    self.attentions = nnx.List([attention(config, channels, -1, **shared)])
    self.resnets = nnx.List([resnet(config, channels, channels, **shared) for _ in range(2)])
    self.remat = None

  def __call__(self, x: Array, emb: Array, text: Array) -> Array:
    def run(x: Array, emb: Array, text: Array) -> Array:
      return self.resnets[1](self.attentions[0](self.resnets[0](x, emb), text), emb)

    return anew(run, self.remat)(x, emb, text)


def resnet(config: UNetConfig, inputs: int, outputs: int, *, dtype, rngs) -> ResnetBlock2D:
  return ResnetBlock2D(
    inputs,
    outputs,
    groups=config.norm_num_groups,
    epsilon=config.norm_eps,
    embedding=4 * config.block_out_channels[0],
    dtype=dtype,
    rngs=rngs,
  )


def attention(config: UNetConfig, channels: int, level: int, *, dtype, rngs) -> Transformer2DModel:
  return Transformer2DModel(
    channels,
    at(config.cross_attention_dim, level),
    heads=config.heads(level),
    depth=config.depth(level),
    linear=config.use_linear_projection,
    groups=config.norm_num_groups,
    dtype=dtype,
    rngs=rngs,
  )


def plus(x: Array, more: Array | None) -> Array:
  """What an adapter adds, if it does.

  Raises:
    UserError: it is made for another size of pictures or widths.
  """
  if more is not None and more.shape[1:] != x.shape[1:]:
    raise UserError(
      f'The adapter adds features of {more.shape[1:]} where the U-Net has {x.shape[1:]}: its '
      'hint_widths, downscale_factor or channels are for another autoencoder or U-Net.'
    )
  return x if more is None else x + more


class Encoder(nnx.Module):
  """The half that μ-mixing and ControlNet duplicate: time embedding, conv_in, down blocks, mid.

  Args:
    dtype: of the activations.
  """

  def __init__(self, config: UNetConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    widths, shared = config.block_out_channels, dict(dtype=dtype, rngs=rngs)
    self.conv_in = conv(config.in_channels, widths[0], 3, **shared)
    self.time_embedding = TimestepEmbedding(
      widths[0], 4 * widths[0], condition=config.time_cond_proj_dim, **shared
    )
    if config.addition_embed_type:
      pooled = config.projection_class_embeddings_input_dim
      self.add_embedding = TimestepEmbedding(pooled, 4 * widths[0], **shared)
    down = []
    for level, (kind, width) in enumerate(zip(config.down_block_types, widths, strict=True)):
      inputs = [widths[max(level - 1, 0)]] + [width] * (config.layers(level) - 1)
      change = 'down' if level < len(widths) - 1 else None
      down.append(Level(config, kind, inputs, width, level=level, change=change, **shared))
    self.down_blocks = nnx.List(down)
    if config.mid_block_type:
      self.mid_block = MidBlock(config, **shared)
    self.config = config

  def embed(self, time: Time, text: Text) -> Array:
    """The embedding [b, e] of the time, of the step, of the pooled text and the sizes (SDXL).

    Raises:
      UserError: the network is SDXL's and the text has no pooled state or sizes.
    """
    config = self.config
    settings = dict(flip=config.flip_sin_to_cos, shift=config.freq_shift)
    waves = sinusoid(time.index, config.block_out_channels[0], **settings)
    channels = config.time_cond_proj_dim
    emb = self.time_embedding(waves, time.beside(channels) if channels else None)
    if not config.addition_embed_type:
      return emb
    if text.pooled is None or text.sizes is None:
      raise UserError("This U-Net ('text_time') needs the text's pooled state and sizes.")
    waves = sinusoid(text.sizes.reshape(-1), config.addition_time_embed_dim, **settings)
    waves = waves.reshape(len(text.pooled), -1)
    return emb + self.add_embedding(jnp.concatenate([text.pooled, waves], axis=-1))

  def encode(
    self,
    z: Array,
    time: Time,
    text: Text,
    *,
    hint: Array | None = None,
    residuals: Sequence[Array] = (),
  ) -> Features:
    """The encoder's features.

    Args:
      z: [b, h, w, c] latents.
      time: the time and, if the network is given one, the step.
      text: the prompt.
      hint: added to conv_in's output (ControlNet).
      residuals: one [b, h, w, c] per level, or fewer (T2I-Adapter). As in diffusers, a level that
        attends adds it before it is halved, one that does not adds it afterwards, and one that
        is left over is added to the middle block's output if it has its shape.
    """
    emb, residuals = self.embed(time, text), iter(residuals or ())
    x = plus(self.conv_in(z), hint)
    skips = [x]
    for block in self.down_blocks:
      residual = next(residuals, None)
      for layer in range(len(block.resnets)):
        x = block.layer(layer, x, emb, text.states)
        skips.append(x)
      if block.attends:
        skips[-1] = x = plus(x, residual)
      for down in getattr(block, 'downsamplers', ()):
        x = down(x)
        skips.append(x)
      if not block.attends:
        skips[-1] = x = plus(x, residual)
    mid, residual = x, next(residuals, None)
    if self.config.mid_block_type:
      mid = self.mid_block(x, emb, text.states)
    fits = residual is not None and residual.shape == mid.shape
    return Features(tuple(skips), plus(mid, residual if fits else None), emb)


class UNet2DConditionModel(Encoder):
  """(z [b, h, w, c], index [b], text, step [b]) -> the prediction [b, h, w, k], float32."""

  def __init__(self, config: UNetConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    super().__init__(config, dtype=dtype, rngs=rngs)
    widths, last = config.block_out_channels[::-1], len(config.block_out_channels) - 1
    shared = dict(dtype=dtype, rngs=rngs)
    skips = skip_channels(config)
    up, below = [], widths[0]
    for index, (kind, width) in enumerate(zip(config.up_block_types, widths, strict=True)):
      inputs = []
      for _ in range(config.layers(last - index) + 1):
        inputs.append(below + skips.pop())
        below = width
      change = 'up' if index < last else None
      up.append(Level(config, kind, inputs, width, level=last - index, change=change, **shared))
    self.up_blocks = nnx.List(up)
    self.conv_norm_out = GroupNorm(widths[-1], config.norm_num_groups, epsilon=config.norm_eps)
    self.conv_out = conv(widths[-1], config.out_channels, 3, dtype=dtype, rngs=rngs)

  def decode(self, features: Features, text: Text) -> Array:
    skips, x, emb = list(features.skips), features.mid, features.emb
    for block in self.up_blocks:
      for layer in range(len(block.resnets)):
        x = block.layer(layer, jnp.concatenate([x, skips.pop()], axis=-1), emb, text.states)
      for up in getattr(block, 'upsamplers', ()):
        x = up(x, skips[-1].shape[1:3])
    return self.conv_out(silu(self.conv_norm_out(x))).astype(jnp.float32)

  def __call__(self, z: Array, index: Array, text: Text, step: Array | None = None) -> Array:
    return self.decode(self.encode(z, Time(index, step), text), text)


def skip_channels(config: UNetConfig) -> list[int]:
  """The channels of every skip, in the encoder's order."""
  widths, last = config.block_out_channels, len(config.block_out_channels) - 1
  channels = [widths[0]]
  for level, width in enumerate(widths):
    channels += [width] * (config.layers(level) + (level < last))
  return channels
