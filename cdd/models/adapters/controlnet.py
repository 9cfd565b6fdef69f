"""Owns ControlNet (Zhang & Agrawala, 2023; diffusers' ControlNetModel)."""

import jax.numpy as jnp
from flax import nnx

from cdd.core.registry import choose
from cdd.core.types import Array, Condition
from cdd.models.adapters.adapter import joined
from cdd.models.blocks import conv
from cdd.models.ops import rows
from cdd.models.time import Time
from cdd.models.unet import Encoder, Features, UNetConfig, skip_channels


class HintNetwork(nnx.Module):
  """Condition pixels [b, H, W, 3] -> [b, H/2^n, W/2^n, c], n + 1 being the number of widths."""

  def __init__(self, inputs: int, outputs: int, widths: tuple[int, ...], *, dtype, rngs):
    self.conv_in = conv(inputs, widths[0], 3, dtype=dtype, rngs=rngs)
    blocks = []
    for narrow, wide in zip(widths[:-1], widths[1:], strict=True):
      blocks.append(conv(narrow, narrow, 3, dtype=dtype, rngs=rngs))
      blocks.append(conv(narrow, wide, 3, stride=2, dtype=dtype, rngs=rngs))
    self.blocks = nnx.List(blocks)
    self.conv_out = conv(widths[-1], outputs, 3, zero=True, dtype=dtype, rngs=rngs)

  def __call__(self, image: Array) -> Array:
    return rows.chain([self.conv_in, *self.blocks, self.conv_out], image)


class ControlNet(Encoder):
  """A copy of the encoder that sees z, t and the condition, added through zero convolutions."""

  copies_unet_below = ''

  def __init__(
    self,
    config: UNetConfig,
    *,
    hint_widths: tuple[int, ...] = (16, 32, 96, 256),
    channel_order: str = 'rgb',
    conditioning_channels: int = 3,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    """A ControlNet with the encoder of `config`, which need not be that of the U-Net.

    Args:
      hint_widths: one more than the halvings from pixels to latents (diffusers' default: 8x).
      channel_order: 'rgb' | 'bgr', the order that the hint network was trained with.
      conditioning_channels: 3 for an image, 4 for an image and a mask (inpainting).
    """
    self.masked = conditioning_channels == 4
    self.flip = choose(dict(rgb=False, bgr=True), channel_order, 'channel order')
    super().__init__(config, dtype=dtype, rngs=rngs)
    first, last = config.block_out_channels[0], config.block_out_channels[-1]
    self.controlnet_cond_embedding = HintNetwork(
      conditioning_channels, first, tuple(hint_widths), dtype=dtype, rngs=rngs
    )

    def zero(width):
      return conv(width, width, 1, zero=True, dtype=dtype, rngs=rngs)

    self.controlnet_down_blocks = nnx.List([zero(width) for width in skip_channels(config)])
    self.controlnet_mid_block = zero(last)

  @property
  def reads(self) -> dict[str, str]:
    return dict(condition='pixel', mask='pixel') if self.masked else dict(condition='pixel')

  def hints(self, c: Condition) -> Array:
    """The picture at the size of the latents; the reference makes it anew at every step."""
    image = joined(c, self.reads)
    if self.flip:
      image = jnp.concatenate([image[..., 2::-1], image[..., 3:]], axis=-1)
    return self.controlnet_cond_embedding(image)

  def features(
    self,
    unet: Encoder,
    z: Array,
    time: Time,
    c: Condition,
    hints: Array,
    strength: Array | None = None,
  ) -> Features:
    features, new = unet.encode(z, time, c.text), self.encode(z, time, c.text, hint=hints)

    def plus(x, added):
      return x + (added if strength is None else added * strength.astype(added.dtype))

    added = zip(features.skips, self.controlnet_down_blocks, new.skips, strict=True)
    skips = tuple(plus(skip, zero(extra)) for skip, zero, extra in added)
    return features._replace(
      skips=skips, mid=plus(features.mid, self.controlnet_mid_block(new.mid))
    )
