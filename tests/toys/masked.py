"""An adapter: adds the condition's latents to z where a mask of pixels lets them through."""

import jax.numpy as jnp
from flax import nnx


class Masked(nnx.Module):
  """z + gain · mask · condition, the gain from 0."""

  reads = dict(condition='latent', mask='pixel')
  copies_unet_below = None

  def __init__(self, config, *, channel: int = 0, dtype=jnp.float32, rngs: nnx.Rngs):
    self.gain = nnx.Param(jnp.zeros((1, 1, 1, config.in_channels)))
    self.channel = channel

  def hints(self, c):
    image, mask = c.arrays['condition'], c.arrays['mask'][..., self.channel]
    b, height, width, _ = image.shape
    mask = mask.reshape(b, height, mask.shape[1] // height, width, -1).mean((2, 4))
    return image * mask[..., None]

  def features(self, unet, z, time, c, hints):
    return unet.encode(z + self.gain[...] * hints, time, c.text)
