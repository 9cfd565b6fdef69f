"""Owns DDIM (Song et al., 2020a; Eq. 6)."""

import jax
import jax.numpy as jnp

from cdd.diffusion.process import Level, Pair, compose
from cdd.diffusion.samplers import loop


def ddim(denoise, z, rng, *, eta: float = 0.0, **walk):
  """DDIM; `eta` 1 adds the noise of the ancestral sampler, 0 none. Arguments as `loop.run`."""

  def update(pair: Pair, at_t: Level, at_s: Level, key: jax.Array) -> jax.Array:
    if eta == 0:
      return compose(pair, at_s)
    ratio = (1 - (at_t.alpha / at_s.alpha) ** 2) * (at_s.sigma / at_t.sigma) ** 2
    std = eta * jnp.sqrt(ratio)  # Their Eq. 16.
    kept = jnp.sqrt(jnp.maximum(at_s.sigma**2 - std**2, 0))
    return compose(pair, Level(at_s.alpha, kept)) + std * loop.noise(key, pair.x)

  return loop.run(update, denoise, z, rng, **walk)


def ancestral(denoise, z, rng, **walk):
  """The posterior q(z_s | z_t, x̂) of Ho et al. (2020): DDIM with eta = 1."""
  return ddim(denoise, z, rng, eta=1.0, **walk)
