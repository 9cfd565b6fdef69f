"""Owns what training changes: the state, and nothing else."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cdd.core.types import Array, Params


@flax.struct.dataclass
class State:
  """What a checkpoint holds; frozen weights are an argument of the step instead.

  Attributes:
    step: int32 scalar, the number of updates made.
    params: θ, the trainable parameters.
    target: θ⁻ where it is not θ itself (float32): an average of θ, or empty.
    opt: the optimiser's state.
  """

  step: Array
  params: Params
  target: Params
  opt: Any

  @property
  def evaluated(self) -> Params:
    """θ⁻, whole: what is sampled from, exported and measured."""
    return {**self.params, **self.target}


def create(params: Params, optimizer: optax.GradientTransformation, *, apart: bool = True) -> State:
  """The state before the first update: θ⁻ ← θ, copied because the step donates both.

  Args:
    apart: θ⁻ will not stay θ itself, and is kept beside it.
  """
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    target=jax.tree.map(jnp.copy, params) if apart else {},
    opt=optimizer.init(params),
  )
