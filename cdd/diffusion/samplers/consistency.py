"""Owns the few-step sampler of a distilled model: start at t = T, return x̂ at the last step."""

import jax

from cdd.diffusion.process import Level, Pair, compose
from cdd.diffusion.samplers import loop


def consistency(denoise, z, rng, **walk):
  """Deterministic: ẑ_s of the predicted signal and the predicted noise. Arguments as `loop.run`."""
  update = lambda pair, at_t, at_s, key: compose(pair, at_s)
  return loop.run(update, denoise, z, rng, **walk)


def consistency_renoise(denoise, z, rng, **walk):
  """ẑ_s of the predicted signal and fresh noise (Song et al., 2023, Algorithm 1)."""

  def update(pair: Pair, at_t: Level, at_s: Level, key: jax.Array) -> jax.Array:
    return compose(Pair(pair.x, loop.noise(key, pair.x)), at_s)

  return loop.run(update, denoise, z, rng, **walk)
