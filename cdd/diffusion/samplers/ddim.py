"""Owns DDIM (Song et al., 2020a; Eq. 6)."""

import jax.numpy as jnp

from cdd.diffusion.process import compose
from cdd.diffusion.samplers.sampler import Move, Sampler, noise


def ddim(*, eta: float = 0.0) -> Sampler:
  """DDIM; `eta` 1 adds the noise of the ancestral sampler, 0 none."""

  def step(memory, move: Move):
    pair, at_t, at_s = move.pair, move.at_t, move.at_s
    if eta == 0:
      return memory, compose(pair, at_s)
    ratio = (1 - (at_t.alpha / at_s.alpha) ** 2) * (at_s.sigma / at_t.sigma) ** 2
    std = eta * jnp.sqrt(ratio)  # Their Eq. 16.
    remaining = jnp.sqrt(jnp.maximum(at_s.sigma**2 - std**2, 0))
    mean = compose(pair, at_s._replace(sigma=remaining))
    return memory, mean + std * noise(move.key, pair.x)

  return Sampler(step)


def ancestral() -> Sampler:
  """The posterior q(z_s | z_t, x̂) of Ho et al. (2020): DDIM with eta = 1."""
  return ddim(eta=1.0)
