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


def through(distance: Callable, *functions: Callable[[jax.Array], jax.Array]) -> Callable:
  """The distance of f(a) and f(b), f the composition of `functions`, the first one first.

  Figure 3's forms: D for pixels, D then E for re-encoded latents.
  """

  def composed(a, b, weight=None):
    for function in functions:
      a, b = function(a), function(b)
    return distance(a, b, weight)

  return composed


def per_example(metric: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable:
  """A distance from a metric of images -> [b], such as LPIPS."""
  return lambda a, b, weight=None: _mean(metric(a, b)[:, None, None, None], weight)


def _mean(values: jax.Array, weight: jax.Array | None) -> jax.Array:
  return jnp.mean(values if weight is None else weight * values)


DISTANCES = dict(pseudo_huber=pseudo_huber, squared_l2=squared_l2)
