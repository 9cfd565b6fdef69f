"""Owns what a backbone's output means: ε, x or v, in diffusers' terms, to and from v."""

import jax
import jax.numpy as jnp

from cdd.diffusion.process import Level, Pair, decompose, velocity

KINDS = ('epsilon', 'sample', 'v_prediction')
LEAST = 1e-4  # Where α or σ is nearly 0, what it multiplies cannot be read off z.


def _check(kind: str) -> None:
  if kind not in KINDS:
    raise ValueError(f'Unknown prediction type {kind!r}; choose one of {list(KINDS)}.')


def to_v(kind: str, z: jax.Array, out: jax.Array, level: Level) -> jax.Array:
  """The velocity [b, h, w, c] of an output of the given kind at z."""
  _check(kind)
  if kind == 'v_prediction':
    return out
  if kind == 'epsilon':
    x = (z - level.sigma * out) / jnp.maximum(level.alpha, LEAST)
    return velocity(Pair(x, out), level)
  eps = (z - level.alpha * out) / jnp.maximum(level.sigma, LEAST)
  return velocity(Pair(out, eps), level)


def from_v(kind: str, z: jax.Array, v: jax.Array, level: Level) -> jax.Array:
  """The output of the given kind that has the velocity v at z."""
  _check(kind)
  pair = decompose(z, v, level)
  return dict(v_prediction=v, epsilon=pair.eps, sample=pair.x)[kind]
