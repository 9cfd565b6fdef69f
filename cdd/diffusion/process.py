"""Owns the forward process as a rotation: at a level (α, σ), (z, v) is (x, ε) rotated."""

from typing import NamedTuple

import jax


class Level(NamedTuple):
  """α_t and σ_t, each [b, 1, 1, 1], with α² + σ² = 1."""

  alpha: jax.Array
  sigma: jax.Array


class Pair(NamedTuple):
  """A signal and a noise, each [b, h, w, c], real or predicted."""

  x: jax.Array
  eps: jax.Array


def compose(pair: Pair, level: Level) -> jax.Array:
  """z = α x + σ ε: Eq. 1, Eq. 8 and Eq. 12 are this, of different pairs."""
  return level.alpha * pair.x + level.sigma * pair.eps


def velocity(pair: Pair, level: Level) -> jax.Array:
  """v = α ε − σ x (Salimans & Ho, 2022)."""
  return level.alpha * pair.eps - level.sigma * pair.x


def decompose(z: jax.Array, v: jax.Array, level: Level) -> Pair:
  """Eq. 7: the pair that composes to z and has velocity v."""
  return Pair(x=level.alpha * z - level.sigma * v, eps=level.alpha * v + level.sigma * z)
