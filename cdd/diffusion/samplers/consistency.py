"""Owns the few-step samplers of a distilled model: start at t = T, return x̂ at the last step."""

from cdd.diffusion.process import Pair, compose
from cdd.diffusion.samplers.sampler import Move, Sampler, noise


def consistency() -> Sampler:
  """Deterministic: ẑ_s of the predicted signal and the predicted noise."""

  def step(memory, move: Move):
    return memory, compose(move.pair, move.at_s)

  return Sampler(step, steps=4, few=True)


def consistency_renoise() -> Sampler:
  """ẑ_s of the predicted signal and fresh noise (Song et al., 2023, Algorithm 1)."""

  def step(memory, move: Move):
    fresh = Pair(move.pair.x, noise(move.key, move.pair.x))
    return memory, compose(fresh, move.at_s)

  return Sampler(step, steps=4, few=True)
