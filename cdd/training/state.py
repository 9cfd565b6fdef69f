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
    """All of θ⁻: what is sampled from, exported and measured."""
    return {**self.params, **self.target}


def create(
  params: Params, optimizer: optax.GradientTransformation, *, has_copy: bool = True
) -> State:
  """The state before the first update: θ⁻ ← θ, copied because the step donates both.

  Args:
    has_copy: whether θ⁻ is another array than θ, and so a part of the state.
  """
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    target=jax.tree.map(jnp.copy, params) if has_copy else {},
    opt=optimizer.init(params),
  )
