"""Owns T2I-Adapter (Mou et al., 2023; diffusers' T2IAdapter): full, full for SDXL, and light."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.core.types import Array, Condition
from cdd.models.adapters.adapter import joined
from cdd.models.blocks import conv
from cdd.models.time import Time
from cdd.models.unet import Encoder, Features, UNetConfig


class Kind(NamedTuple):
  """What differs between the kinds.

  Attributes:
    halves: whether the block at a level halves the resolution first.
    channels: the U-Net's widths -> the widths that config.json names.
    features: those widths -> the channels of each feature.
    downscale_factor, num_res_blocks: the defaults, as in the reference's own weights.
  """

  halves: Callable[[int], bool]
  channels: Callable[[tuple[int, ...]], tuple[int, ...]]
  features: Callable[[tuple[int, ...]], tuple[int, ...]]
  downscale_factor: int
  num_res_blocks: int


def same(widths):
  return tuple(widths)


def with_last_again(widths):
  return (*widths, widths[-1])


KINDS = dict(
  full_adapter=Kind(lambda level: level > 0, same, same, 8, 2),
  # SDXL's first level halves z, and its middle block takes a feature too.
  full_adapter_xl=Kind(lambda level: level == 2, with_last_again, same, 16, 2),
  light_adapter=Kind(lambda level: level > 0, lambda w: tuple(w[:-1]), with_last_again, 8, 4),
)


class Residual(nnx.Module):
  def __init__(self, width, *, kernel, dtype, rngs):
    self.block1 = conv(width, width, 3, dtype=dtype, rngs=rngs)
    self.block2 = conv(width, width, kernel, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    return x + self.block2(jax.nn.relu(self.block1(x)))


class Block(nnx.Module):
  """One level's feature from that of the level above; a light one is a quarter as wide inside."""

  def __init__(self, inputs, outputs, *, light, halves, depth, dtype, rngs):
    shared = dict(dtype=dtype, rngs=rngs)
    width = outputs // 4 if light else outputs
    if light or inputs != outputs:
      self.in_conv = conv(inputs, width, 1, **shared)
    self.resnets = nnx.List(
      [Residual(width, kernel=3 if light else 1, **shared) for _ in range(depth)]
    )
    if light:
      self.out_conv = conv(width, outputs, 1, **shared)
    self.halves = halves

  def __call__(self, x: Array) -> Array:
    if self.halves:
      edges = [(0, size % 2) for size in x.shape[1:3]]  # PyTorch's ceil_mode.
      x = nnx.avg_pool(x, (2, 2), (2, 2), padding=edges, count_include_pad=False)
    x = self.in_conv(x) if hasattr(self, 'in_conv') else x
    for resnet in self.resnets:
      x = resnet(x)
    return self.out_conv(x) if hasattr(self, 'out_conv') else x


class Pyramid(nnx.Module):
  """Unshuffled pixels [b, h, w, p] -> one feature per level (and, for SDXL, the middle block)."""

  def __init__(self, pixels, channels, *, kind, depth, dtype, rngs):
    light = kind == 'light_adapter'
    features = KINDS[kind].features(channels)
    inputs = (pixels if light else channels[0], *features[:-1])
    if not light:
      self.conv_in = conv(pixels, channels[0], 3, dtype=dtype, rngs=rngs)
    body = []
    for level, (before, width) in enumerate(zip(inputs, features, strict=True)):
      shared = dict(light=light, halves=KINDS[kind].halves(level), depth=depth)
      body.append(Block(before, width, dtype=dtype, rngs=rngs, **shared))
    self.body = nnx.List(body)

  def __call__(self, x: Array) -> tuple[Array, ...]:
    x = self.conv_in(x) if hasattr(self, 'conv_in') else x
    features = []
    for block in self.body:
      x = block(x)
      features.append(x)
    return tuple(features)


class T2IAdapter(nnx.Module):
  """Features of the condition's pixels, added inside the U-Net's encoder; they see neither z nor t.

  Unlike the other adapters it changes the U-Net from the first step on: the reference does not
  initialise it to zero.
  """

  copies_unet_below = None

  def __init__(
    self,
    config: UNetConfig,
    *,
    kind: str = 'full_adapter',
    channels: tuple[int, ...] | None = None,
    in_channels: int = 3,
    downscale_factor: int | None = None,
    num_res_blocks: int | None = None,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    """The fields of diffusers' config.json; by default those that fit the U-Net.

    Args:
      config: the U-Net's; not read where `channels` is given.
      in_channels: 1 averages the channels of the condition; 4 reads a mask besides (inpainting).
    """
    chosen = choose(KINDS, kind, 'kind of T2I-Adapter')
    channels = tuple(channels or chosen.channels(config.block_out_channels))
    self.factor = downscale_factor or chosen.downscale_factor
    self.in_channels, self.masked = in_channels, in_channels == 4
    depth = num_res_blocks or chosen.num_res_blocks
    pixels = in_channels * self.factor**2
    self.adapter = Pyramid(pixels, channels, kind=kind, depth=depth, dtype=dtype, rngs=rngs)

  @property
  def reads(self) -> dict[str, str]:
    return dict(condition='pixel', mask='pixel') if self.masked else dict(condition='pixel')

  def hints(self, c: Condition) -> tuple[Array, ...]:
    image = joined(c, self.reads)
    if self.in_channels == 1:
      image = image.mean(-1, keepdims=True)
    return self.adapter(unshuffle(image, self.factor))

  def features(
    self,
    unet: Encoder,
    z: Array,
    time: Time,
    c: Condition,
    hints: tuple[Array, ...],
    strength: Array | None = None,
  ) -> Features:
    if strength is not None:
      hints = tuple(hint * strength.astype(hint.dtype) for hint in hints)
    return unet.encode(z, time, c.text, residuals=hints)


def unshuffle(image: Array, factor: int) -> Array:
  """[b, H, W, c] -> [b, H/f, W/f, c f²], channels in the order of PyTorch's PixelUnshuffle.

  Raises:
    UserError: a side is no multiple of the factor.
  """
  b, height, width, c = image.shape
  if height % factor or width % factor:
    raise UserError(
      f'A T2I-Adapter of downscale_factor {factor} cannot read an image of {height} x {width}: '
      f'both sides have to be multiples of {factor}.'
    )
  x = image.reshape(b, height // factor, factor, width // factor, factor, c)
  return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, height // factor, width // factor, -1)
