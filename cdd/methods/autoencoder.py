"""Owns how a prior's KL autoencoder is trained (Rombach et al., 2022, without a discriminator)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cdd.core.types import Array


def loss(
  encode: Callable[[Array], tuple[Array, Array]],
  decode: Callable[[Array], Array],
  perceptual: Callable[[Array, Array], Array],
  images: Array,
  rng: Array,
  *,
  perceptual_weight: float = 0.5,
  kl_weight: float = 1e-5,
):
  """L1 + LPIPS + KL to N(0, I), the latter averaged over elements.

  Args:
    encode: images [b, H, W, 3] -> mean and log-variance [b, h, w, c].
    decode: latents [b, h, w, c] -> images; images are in [-1, 1].
    perceptual: (images, images) -> [b].
  """
  mean, log_variance = encode(images)
  noise = jax.random.normal(rng, mean.shape, mean.dtype)
  decoded = decode(mean + jnp.exp(0.5 * log_variance) * noise)
  absolute = jnp.abs(decoded - images).mean()
  seen = perceptual(decoded, images).mean()
  kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).mean()
  total = absolute + perceptual_weight * seen + kl_weight * kl
  return total, dict(l1=absolute, lpips=seen, kl=kl, latent_std=mean.std())
