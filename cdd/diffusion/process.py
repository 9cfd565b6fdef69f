"""Owns the forward process: at a level, (z, v) and (x, ε) are two views of the same thing.

z = α x + σ ε and v = α̇ x + σ̇ ε, where the derivatives are such that α σ̇ − σ α̇ = 1. Then
x = σ̇ z − σ v and ε = α v − α̇ z, for every process: variance-preserving (α̇ = −σ, σ̇ = α) and
rectified flow (α = 1 − t, σ = t, α̇ = −1, σ̇ = 1) are two ways from (α, σ) to a level.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Level(NamedTuple):
  """α_t, σ_t and their derivatives, each [b, 1, 1, 1]; α σ̇ − σ α̇ = 1."""

  alpha: jax.Array
  sigma: jax.Array
  alpha_dot: jax.Array
  sigma_dot: jax.Array


class Pair(NamedTuple):
  """A signal and a noise, each [b, h, w, c], real or predicted."""

  x: jax.Array
  eps: jax.Array


def variance_preserving(alpha: jax.Array, sigma: jax.Array) -> Level:
  """The level of a process with α² + σ² = 1, whose v is that of Salimans & Ho (2022)."""
  return Level(alpha, sigma, -sigma, alpha)


def rectified_flow(alpha: jax.Array, sigma: jax.Array) -> Level:
  """The level of a process with α + σ = 1, whose v is ε − x (Liu et al., 2023)."""
  one = jnp.ones_like(alpha)
  return Level(alpha, sigma, -one, one)


def compose(pair: Pair, level: Level) -> jax.Array:
  """z = α x + σ ε: Eq. 1, Eq. 8 and Eq. 12 are this, of different pairs."""
  return level.alpha * pair.x + level.sigma * pair.eps


def velocity(pair: Pair, level: Level) -> jax.Array:
  """v = α̇ x + σ̇ ε, written so that −(−σ) is σ and v is rounded as α ε − σ x is."""
  return level.sigma_dot * pair.eps - (-level.alpha_dot) * pair.x


def step_between(z_t: jax.Array, z_s: jax.Array, at_t: Level, at_s: Level) -> Pair:
  """The pair that composes to z_t at t and to z_s at s (Salimans & Ho, 2022, Appendix G)."""
  ratio = at_s.sigma / at_t.sigma
  x = (z_s - ratio * z_t) / (at_s.alpha - ratio * at_t.alpha)
  return Pair(x, (z_t - at_t.alpha * x) / at_t.sigma)


def decompose(z: jax.Array, v: jax.Array, level: Level) -> Pair:
  """Eq. 7: the pair that composes to z and has velocity v."""
  return Pair(x=level.sigma_dot * z - level.sigma * v, eps=level.alpha * v - level.alpha_dot * z)
