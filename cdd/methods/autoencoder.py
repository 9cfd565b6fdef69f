"""Owns how a prior's KL autoencoder is trained (Rombach et al., 2022, without a discriminator)."""

import jax
import jax.numpy as jnp

from cdd.core.types import Array, Batch, Nets
from cdd.methods.method import Method
from cdd.metrics import lpips


def loss(
  nets: Nets,
  batch: Batch,
  rng: Array,
  step: Array,
  *,
  schedule=None,
  num_steps=None,
  perceptual_weight: float = 0.5,
  kl_weight: float = 1e-5,
) -> tuple[Array, dict[str, Array]]:
  """L1 + LPIPS + KL to N(0, I), the latter averaged over elements.

  Args:
    schedule, num_steps: not read; an autoencoder knows no noise.
  """
  del step, schedule, num_steps
  images = batch.images
  mean, log_variance = nets.moments(images)
  noise = jax.random.normal(rng, mean.shape, mean.dtype)
  decoded = nets.render(mean + jnp.exp(0.5 * log_variance) * noise)
  absolute = jnp.abs(decoded - images).mean()
  perceptual = lpips.of_images((decoded + 1) / 2, (images + 1) / 2).mean()
  kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).mean()
  total = absolute + perceptual_weight * perceptual + kl_weight * kl
  return total, dict(l1=absolute, lpips=perceptual, kl=kl, latent_std=mean.std())


AUTOENCODER = Method(
  loss, networks=('moments', 'render'), sampler=None, plots=('loss', 'l1', 'lpips')
)
