"""Owns the loop that every sampler shares: one compiled body, whatever the number of steps."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp

from cdd.diffusion.process import decompose
from cdd.diffusion.samplers.sampler import Move, Sampler
from cdd.diffusion.schedules import Schedule


def run(
  sampler: Sampler,
  denoise: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  z: jax.Array,
  rng: jax.Array,
  *,
  schedule: Schedule,
  times: Sequence[int],
  clip: float | None = None,
) -> jax.Array:
  """Denoises z along `times`; at 0, where there is no noise, z is x̂ of the last evaluation.

  Args:
    denoise: (z [b, h, w, c], t, s int32 [b, 1, 1, 1]) -> v at t of the step that leads to s; a
      sampler of many steps gives no step (s = None).
    z: noise at times[0].
    rng: a key, or one per image, [b]; then what an image draws does not depend on its batch.
    times: as `Timesteps.times` gives them.
    clip: the largest |x̂|; ε̂ stays what was predicted, as in diffusers.

  Raises:
    ValueError: the times do not fall.
  """
  times = tuple(times)
  # Sampling may end at the level of its last evaluation; it then stays there.
  if any(s >= t for t, s in pairwise(times[:-1])) or not 0 <= times[-1] <= times[-2]:
    raise ValueError(f'Sampling times must fall strictly, not {times}.')

  def at(t):
    return jnp.broadcast_to(t, (z.shape[0], 1, 1, 1))

  def body(carry, item):
    (z, memory), (t, s, key) = carry, item
    at_t, at_s = schedule(at(t)), schedule(at(s))
    pair = decompose(z, denoise(z, at(t), at(s) if sampler.few else None), at_t)
    if clip is not None:
      pair = pair._replace(x=jnp.clip(pair.x, -clip, clip))
    memory, z = sampler.step(memory, Move(z, pair, at_t, at_s, key, at(t)))
    return (z, memory), None

  visited = jnp.array(times, jnp.int32)

  def split(key):
    return jax.random.split(key, len(times))

  keys = jax.vmap(split, out_axes=1)(rng) if rng.ndim else split(rng)
  steps = (visited[:-1], visited[1:], keys[:-1])
  return jax.lax.scan(body, (z, sampler.init(z)), steps)[0][0]
