"""Owns what training changes: the state, and nothing else."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cdd.types import Array, Params


@flax.struct.dataclass
class State:
  """What a checkpoint holds; frozen weights are an argument of the step instead.

  Attributes:
    step: int32 scalar, the number of updates made.
    params: θ, the trainable parameters.
    target: θ⁻, the exponential moving average of θ (float32).
    opt: the optimiser's state.
  """

  step: Array
  params: Params
  target: Params
  opt: Any


def create(params: Params, optimizer: optax.GradientTransformation) -> State:
  """The state before the first update: θ⁻ ← θ, copied because the step donates both."""
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    target=jax.tree.map(jnp.copy, params),
    opt=optimizer.init(params),
  )
