"""Owns the sampler of latent consistency models (Luo et al., 2023; diffusers' LCMScheduler)."""

import jax.numpy as jnp

from cdd.diffusion import schedules
from cdd.diffusion.process import Pair, compose
from cdd.diffusion.samplers.sampler import Move, Sampler, noise

# c_skip and c_out are those of a standard deviation of 0.5 at ten times the backbone's index.
DEVIATION, SCALING = 0.5, 10.0


def lcm() -> Sampler:
  """ẑ_s of c_out x̂ + c_skip z and fresh noise, at the times that these models learnt."""

  def step(memory, move: Move):
    scaled = SCALING * schedules.index(move.t).astype(jnp.float32)
    total = scaled**2 + DEVIATION**2
    x = scaled / jnp.sqrt(total) * move.pair.x + DEVIATION**2 / total * move.z
    return memory, compose(Pair(x, noise(move.key, x)), move.at_s)

  return Sampler(step, steps=4, few=True, spacing='lcm')
