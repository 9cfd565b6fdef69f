"""Owns the loop that every sampler shares: one compiled body, whatever the number of steps."""

from collections.abc import Callable, Sequence
from itertools import pairwise

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
  clip: float | None = None,
) -> jax.Array:
  """Walks z down `times`; at 0, where there is no noise, z is x̂ of the last evaluation.

  Args:
    denoise: (z [b, h, w, c], t int32 [b, 1, 1, 1]) -> v.
    z: noise at times[0].
    rng: a key, or one per image, [b]; then what an image draws does not depend on its batch.
    times: as `Walk.times` gives them.
    clip: the largest |x̂|; ε̂ stays what was predicted, as in diffusers.

  Raises:
    ValueError: the times do not fall.
  """
  times = tuple(times)
  # A walk that ends at the level of its last evaluation stays there.
  if any(s >= t for t, s in pairwise(times[:-1])) or not 0 <= times[-1] <= times[-2]:
    raise ValueError(f'Sampling times must fall strictly, not {times}.')
  at = lambda t: jnp.broadcast_to(t, (z.shape[0], 1, 1, 1))

  def body(z, item):
    t, s, key = item
    at_t, at_s = schedule(at(t)), schedule(at(s))
    pair = decompose(z, denoise(z, at(t)), at_t)
    if clip is not None:
      pair = pair._replace(x=jnp.clip(pair.x, -clip, clip))
    return update(pair, at_t, at_s, key), None

  grid = jnp.array(times, jnp.int32)
  split = lambda key: jax.random.split(key, len(times))
  keys = jax.vmap(split, out_axes=1)(rng) if rng.ndim else split(rng)
  return jax.lax.scan(body, z, (grid[:-1], grid[1:], keys[:-1]))[0]


def noise(key: jax.Array, like: jax.Array) -> jax.Array:
  """N(0, I) of the shape [b, h, w, c] of `like`, from a key, or from one per image, [b]."""
  if key.ndim == 0:
    return jax.random.normal(key, like.shape, like.dtype)
  return jax.vmap(lambda own: jax.random.normal(own, like.shape[1:], like.dtype))(key)
