"""Owns the condition beside z at the U-Net's input: InstructPix2Pix, and inpainting with a mask."""

import jax.numpy as jnp
from flax import nnx

from cdd.core.errors import UserError
from cdd.core.types import Array, Condition, Params
from cdd.models.adapters.adapter import joined, padded
from cdd.models.time import Time
from cdd.models.unet import Encoder, Features, UNetConfig


class Concat(nnx.Module):
  """The U-Net reads (z, condition) through one wider conv_in; nothing else is new.

  A dropped condition is zeros, and the adapter itself holds no parameter.

  Attributes:
    reads: the condition's latents, the autoencoder's mode without its scale (InstructPix2Pix:
      Brooks et al., 2023); if masked, the mask and the scaled latents of what it leaves, in this
      order (Stable Diffusion inpainting), each as in the reference.
  """

  copies_unet_below = None

  def __init__(
    self, config: UNetConfig, *, masked: bool = False, dtype=jnp.float32, rngs: nnx.Rngs
  ):
    """`masked`: whether it reads a mask beside the condition."""
    del config, dtype, rngs
    self.masked = masked

  @property
  def reads(self) -> dict[str, str]:
    return (
      dict(mask='mask', condition='latent') if self.masked else dict(condition='unscaled_latent')
    )

  @staticmethod
  def prepare(
    config: UNetConfig, params: Params, *, masked: bool = False
  ) -> tuple[UNetConfig, Params]:
    """A U-Net with conv_in widened by zeros: the condition's channels change nothing yet.

    Args:
      params: a flat tree that holds the U-Net below 'unet.'.

    Raises:
      UserError: the U-Net reads neither z alone nor what this adapter reads.
    """
    channels = config.out_channels
    wanted = inputs(channels, masked)
    if config.in_channels == wanted:
      return config, params  # It reads a condition already.
    if config.in_channels != channels:
      raise UserError(
        f"The adapter 'concat' needs a U-Net of {channels} or {wanted} input channels, not of "
        f'{config.in_channels}.'
      )
    kernel = padded(params['unet.conv_in.kernel'], wanted)
    return config._replace(in_channels=wanted), {**params, 'unet.conv_in.kernel': kernel}

  def hints(self, c: Condition) -> None:
    return None

  def features(self, unet: Encoder, z: Array, time: Time, c: Condition, hints: None) -> Features:
    beside = joined(c, self.reads).astype(z.dtype)
    return unet.encode(jnp.concatenate([z, beside], axis=-1), time, c.text)


def inputs(channels: int, masked: bool) -> int:
  """The input channels of a U-Net that reads z, a condition and perhaps a mask.

  Args:
    channels: those of the latents.
  """
  return 2 * channels + masked
