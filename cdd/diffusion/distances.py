"""Owns distances; each is distance(a, b, weight=None) -> scalar, the mean over all elements."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def squared_l2(a: jax.Array, b: jax.Array, weight: jax.Array | None = None) -> jax.Array:
  """‖a − b‖², averaged; `weight` [b, 1, 1, 1] multiplies each example."""
  return _mean((a - b) ** 2, weight)


def pseudo_huber(
  a: jax.Array, b: jax.Array, weight: jax.Array | None = None, *, c: float = 0.03
) -> jax.Array:
  """√((a − b)² + c²) − c, elementwise, averaged (Song & Dhariwal, 2024)."""
  return _mean(jnp.sqrt((a - b) ** 2 + c**2) - c, weight)


def per_example(metric: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable:
  """A distance from a metric of images -> [b], such as LPIPS."""

  def distance(a, b, weight=None):
    return _mean(metric(a, b)[:, None, None, None], weight)

  return distance


def _mean(values: jax.Array, weight: jax.Array | None) -> jax.Array:
  return jnp.mean(values if weight is None else weight * values)


DISTANCES = dict(pseudo_huber=pseudo_huber, squared_l2=squared_l2)
