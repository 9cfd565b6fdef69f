"""Owns one update: gradients (accumulated over micro-batches), the optimiser, the target."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cdd.core.types import Array, Params
from cdd.training.state import State

# objective(params, target, frozen, batch, rng, step) -> (scalar, metrics)
Objective = Callable[[Params, Params, Params, Any, Array, Array], tuple[Array, dict]]


def gradients(objective: Objective, state: State, frozen: Params, batch, rng, *, accumulate: int):
  """Mean gradients and metrics over `accumulate` micro-batches cut from the leading axis."""
  slope = jax.value_and_grad(objective, has_aux=True)

  def one(micro, key):
    (loss, metrics), grads = slope(state.params, state.target, frozen, micro, key, state.step)
    return grads, dict(metrics, loss=loss)

  if accumulate == 1:
    return one(batch, rng)
  # Strided, so that every micro-batch lies on all devices as the batch does.
  micros = jax.tree.map(
    lambda leaf: leaf.reshape(-1, accumulate, *leaf.shape[1:]).swapaxes(0, 1), batch
  )
  keys = jax.random.split(rng, accumulate)
  first = jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], micros), keys[0])
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

  def add(total, item):
    return (jax.tree.map(jnp.add, total, one(*item)), None)

  total, _ = jax.lax.scan(add, zeros, (micros, keys))
  return jax.tree.map(lambda leaf: leaf / accumulate, total)


def make(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  follow: Callable[[Params, Params, Array], Params],
  *,
  accumulate: int = 1,
):
  """The train step: `step(state, frozen, batch, rng) -> (state, metrics)`, pure.

  `rng` is the run's own key: folding in the step makes a resumed run draw what an unbroken one
  would have drawn.
  """

  def step(state: State, frozen: Params, batch, rng: Array) -> tuple[State, dict]:
    key = jax.random.fold_in(rng, state.step)
    grads, metrics = gradients(objective, state, frozen, batch, key, accumulate=accumulate)
    updates, opt = optimizer.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    target = follow(state.target, params, state.step)
    metrics['grad_norm'] = optax.tree.norm(grads)
    return State(step=state.step + 1, params=params, target=target, opt=opt), metrics

  return step
