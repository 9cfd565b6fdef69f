"""Owns the absence of an adapter: plain text-to-image, as a prior is trained."""

import jax.numpy as jnp
from flax import nnx

from cdd.core.types import Array, Condition
from cdd.models.time import Time
from cdd.models.unet import Encoder, Features, UNetConfig


class NoAdapter(nnx.Module):
  """Reads nothing, adds nothing and holds no parameter."""

  reads = {}
  copies_unet_below = None

  def __init__(self, config: UNetConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    del config, dtype, rngs

  def hints(self, c: Condition) -> None:
    return None

  def features(self, unet: Encoder, z: Array, time: Time, c: Condition, hints: None) -> Features:
    return unet.encode(z, time, c.text)
