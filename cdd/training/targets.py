"""Owns how the target network θ⁻ follows θ; each is follow(target, params, step) -> target.

A target holds the parameters in which θ⁻ is not θ itself: all of them, or none.
"""

import jax
import jax.numpy as jnp

from cdd.core.types import Array, Params


def ema(target: Params, params: Params, step: Array, *, decay: float, warmup: bool = False):
  """θ⁻ ← γ θ⁻ + (1 − γ) θ (Algorithm 1); with γ = `decay` = 0, θ⁻ is θ and there is no copy.

  `warmup` caps γ at (1 + n) / (10 + n) after n updates.
  """
  if not decay:
    return {}
  gamma = jnp.minimum(decay, (1 + step) / (10 + step)) if warmup else jnp.float32(decay)
  return jax.tree.map(lambda old, new: gamma * old + (1 - gamma) * new, target, params)


def periodic(target: Params, params: Params, step: Array, *, every: int):
  """θ⁻ ← θ after every `every` updates, else unchanged."""
  copy = (step + 1) % every == 0
  return jax.tree.map(lambda old, new: jnp.where(copy, new, old), target, params)


TARGETS = {'ema': ema, 'periodic': periodic}
