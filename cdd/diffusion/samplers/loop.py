"""Owns the loop that every sampler shares: one compiled body, whatever the number of steps."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cdd.diffusion.process import Level, Pair, decompose
from cdd.diffusion.schedules import Schedule

# update(pair predicted at t, level of t, level of s, key) -> z_s
Update = Callable[[Pair, Level, Level, jax.Array], jax.Array]


def run(
  update: Update,
  denoise: Callable[[jax.Array, jax.Array], jax.Array],
  z: jax.Array,
  rng: jax.Array,
  *,
  schedule: Schedule,
  times: Sequence[int],
) -> jax.Array:
  """Walks z down `times`, which fall to 0; returns x̂ of the last evaluation.

  Args:
    denoise: (z [b, h, w, c], t int32 [b, 1, 1, 1]) -> v.
    z: noise at times[0].
    rng: a key, or one per image, [b]; then what an image draws does not depend on its batch.

  Raises:
    ValueError: the times do not fall strictly to 0.
  """
  times = tuple(times)
  if times[-1] != 0 or any(s >= t for t, s in zip(times[:-1], times[1:], strict=True)):
    raise ValueError(f'Sampling times must fall strictly to 0, not {times}.')
  at = lambda t: jnp.broadcast_to(t, (z.shape[0], 1, 1, 1))

  def evaluate(z, t):
    return decompose(z, denoise(z, at(t)), schedule(at(t)))

  def body(z, item):
    t, s, key = item
    return update(evaluate(z, t), schedule(at(t)), schedule(at(s)), key), None

  grid = jnp.array(times, jnp.int32)
  split = lambda key: jax.random.split(key, len(times))
  keys = jax.vmap(split, out_axes=1)(rng) if rng.ndim else split(rng)
  if len(times) > 2:
    z, _ = jax.lax.scan(body, z, (grid[:-2], grid[1:-1], keys[:-2]))
  return evaluate(z, grid[-2]).x


def noise(key: jax.Array, like: jax.Array) -> jax.Array:
  """N(0, I) of the shape [b, h, w, c] of `like`, from a key, or from one per image, [b]."""
  if key.ndim == 0:
    return jax.random.normal(key, like.shape, like.dtype)
  return jax.vmap(lambda own: jax.random.normal(own, like.shape[1:], like.dtype))(key)
