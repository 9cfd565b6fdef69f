"""Owns μ-mixing (§4.1, Eq. 10): h_θ(z)' = (1 − μ) h_θ(z) + μ h_η(c), μ from 0."""

import jax.numpy as jnp
from flax import nnx

from cdd.core.types import Array, Condition
from cdd.models.adapters.adapter import joined
from cdd.models.time import Time
from cdd.models.unet import Encoder, Features, UNetConfig


class MuMix(nnx.Module):
  """A copy h_η of the U-Net's encoder that reads the condition's latents instead of z.

  A mask is one more channel of its input, whose weights start as zeros.

  Attributes:
    mu: the mixing scalar, or one per level and one for the middle block.
  """

  copies_unet_below = 'encoder'

  def __init__(
    self,
    config: UNetConfig,
    *,
    per_level: bool = False,
    sees_t: bool = False,
    masked: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    """What the copy reads.

    Args:
      per_level: whether every level has a μ of its own.
      sees_t: lets h_η see the time; then it is evaluated at every sampling step.
      masked: whether it reads a mask beside the condition (inpainting).
    """
    self.masked = masked
    self.encoder = Encoder(
      config._replace(in_channels=config.in_channels + masked), dtype=dtype, rngs=rngs
    )
    levels = len(config.block_out_channels)
    self.mu = nnx.Param(jnp.zeros((levels + 1,) if per_level else ()))
    self.level_of_skip = skip_levels(config)
    self.sees_t = sees_t

  @property
  def reads(self) -> dict[str, str]:
    return dict(condition='latent', mask='mask') if self.masked else dict(condition='latent')

  def hints(self, c: Condition) -> Features | None:
    """h_η(c): the features of the copy. Eq. 10 writes neither z nor t, so time is held at 0."""
    if self.sees_t:
      return None
    image = joined(c, self.reads)
    return self.encoder.encode(image, Time(jnp.zeros(image.shape[0], jnp.int32)), c.text)

  def features(
    self,
    unet: Encoder,
    z: Array,
    time: Time,
    c: Condition,
    hints: Features | None,
    strength: Array | None = None,
  ) -> Features:
    """Eq. 10 on every skip and on the middle block, with `strength` μ in place of μ."""
    features = unet.encode(z, time, c.text)
    if self.sees_t:
      hints = self.encoder.encode(joined(c, self.reads), time, c.text)
    mu = jnp.broadcast_to(self.mu[...], (max(self.level_of_skip) + 2,))

    def mix(z, c, level):
      share = mu[level] if strength is None else mu[level] * strength
      return z + share.astype(z.dtype) * (c - z)

    skips = map(mix, features.skips, hints.skips, self.level_of_skip)
    return features._replace(skips=tuple(skips), mid=mix(features.mid, hints.mid, -1))


def skip_levels(config: UNetConfig) -> tuple[int, ...]:
  """The level that every skip belongs to."""
  last = len(config.block_out_channels) - 1
  counts = [config.layers(level) + (level < last) for level in range(last + 1)]
  return (0, *(level for level, count in enumerate(counts) for _ in range(count)))
