"""Owns what a sampler is: a record of (init, step), as optax's transformations are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cdd.diffusion.process import Level, Pair


class Move(NamedTuple):
  """One step of a sampler, from t to s.

  Attributes:
    z: [b, h, w, c] at t.
    pair: the signal and the noise predicted at t.
    at_t, at_s: the two levels.
    key: a key, or one per image, [b].
    t: int32 [b, 1, 1, 1].
  """

  z: jax.Array
  pair: Pair
  at_t: Level
  at_s: Level
  key: jax.Array
  t: jax.Array | None = None


def no_memory(z: jax.Array) -> tuple:
  """The memory of a sampler that carries nothing."""
  del z
  return ()


class Sampler(NamedTuple):
  """How z goes from noise to an image; the loop around it is `loop.run`.

  Attributes:
    step: (memory, move) -> (memory, z at s).
    init: z at the first time -> the memory before the first step, a tree of arrays.
    steps: the number of steps where nobody names one.
    few: whether it is for distilled models, which start at T whatever their folder says, and are
      given their step.
    spacing: one of times.SPACINGS, of one that is `few`.
  """

  step: Callable[[Any, Move], tuple[Any, jax.Array]]
  init: Callable[[jax.Array], Any] = no_memory
  steps: int = 50
  few: bool = False
  spacing: str = 'trailing'


def noise(key: jax.Array, like: jax.Array) -> jax.Array:
  """N(0, I) of the shape [b, h, w, c] of `like`, from a key, or from one per image, [b]."""
  if key.ndim == 0:
    return jax.random.normal(key, like.shape, like.dtype)
  return jax.vmap(lambda each: jax.random.normal(each, like.shape[1:], like.dtype))(key)
