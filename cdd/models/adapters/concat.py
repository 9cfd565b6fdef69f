"""Owns the condition beside z at the U-Net's input (InstructPix2Pix: Brooks et al., 2023)."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdd.core.errors import UserError
from cdd.core.types import Array, Condition, Params
from cdd.models.unet import Encoder, Features, Time, UNetConfig


class Concat(nnx.Module):
  """The U-Net reads (z, condition) through one wider conv_in; nothing else is new.

  The condition's latents are the autoencoder's mode without its scale, and a dropped condition is
  zeros, both as in the reference. The adapter itself holds no parameter.
  """

  reads = dict(condition='unscaled_latent')
  copies_unet_below = None

  def __init__(self, config: UNetConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    del config, dtype, rngs

  @staticmethod
  def prepare(config: UNetConfig, params: Params) -> tuple[UNetConfig, Params]:
    """A U-Net with conv_in widened by zeros: the condition's channels change nothing yet.

    Args:
      params: a flat tree that holds the U-Net below 'unet.'.

    Raises:
      UserError: the U-Net reads neither z alone nor z and a condition.
    """
    channels = config.out_channels
    if config.in_channels == 2 * channels:
      return config, params  # It reads a condition already.
    if config.in_channels != channels:
      raise UserError(
        f"The adapter 'concat' needs a U-Net of {channels} or {2 * channels} input channels, not "
        f'of {config.in_channels}.'
      )
    kernel = np.asarray(params['unet.conv_in.kernel'])
    wide = np.concatenate([kernel, np.zeros_like(kernel)], axis=2)
    return config._replace(in_channels=2 * channels), {**params, 'unet.conv_in.kernel': wide}

  def hints(self, c: Condition) -> None:
    return None

  def features(self, unet: Encoder, z: Array, time: Time, c: Condition, hints: None) -> Features:
    image = c.arrays['condition'].astype(z.dtype)
    return unet.encode(jnp.concatenate([z, image], axis=-1), time, c.text)
