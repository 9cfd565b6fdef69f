"""Owns the adapted model of §4.1: a U-Net, an adapter at the joint of its encoder and decoder."""

from flax import nnx

from cdd.core.types import Array, Condition
from cdd.models.time import Time
from cdd.models.unet import UNet2DConditionModel


class Adapted(nnx.Module):
  """ŵ_θ(z_t, c, t); at initialisation it equals the unconditional v̂_θ(z_t, t) exactly."""

  def __init__(self, unet: UNet2DConditionModel, adapter: nnx.Module):
    self.unet = unet
    self.adapter = adapter

  def hints(self, c: Condition):
    """What the adapter makes of the condition alone: to be computed once per image."""
    return self.adapter.hints(c)

  def with_hints(
    self, z: Array, c: Condition, hints, time: Time, strength: Array | None = None
  ) -> Array:
    """The prediction [b, h, w, c] from z [b, h, w, c], the time and precomputed hints.

    Args:
      strength: [b, 1, 1, 1], for an adapter whose `features` take it; None is 1.
    """
    how = {} if strength is None else dict(strength=strength)
    return self.unet.decode(self.adapter.features(self.unet, z, time, c, hints, **how), c.text)

  def __call__(self, z: Array, c: Condition, index: Array) -> Array:
    return self.with_hints(z, c, self.hints(c), Time(index))
