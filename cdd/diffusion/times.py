"""Owns times: how training draws t, and which times a sampler visits."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdd.core.errors import UserError
from cdd.core.registry import choose


def shared(rng: jax.Array, batch: int, dt: int, num_steps: int) -> jax.Array:
  """One t ~ U{dt .. T} for the global batch, int32 [b, 1, 1, 1] (§5.1)."""
  t = jax.random.randint(rng, (1, 1, 1, 1), dt, num_steps + 1)
  return jnp.broadcast_to(t, (batch, 1, 1, 1))


def per_example(rng: jax.Array, batch: int, dt: int, num_steps: int) -> jax.Array:
  """t ~ U{dt .. T} for every example, int32 [b, 1, 1, 1]."""
  return jax.random.randint(rng, (batch, 1, 1, 1), dt, num_steps + 1)


def grid(rng: jax.Array, batch: int, dt: int, num_steps: int) -> jax.Array:
  """t ~ U{T, T − Δt, T − 2Δt, ...}, at least Δt, for every example, int32 [b, 1, 1, 1].

  These are the levels that hops of Δt from T visit, and so a sampler of T/Δt steps, or of half,
  a quarter, ... as many.
  """
  hops = jax.random.randint(rng, (batch, 1, 1, 1), 0, num_steps // dt)
  return num_steps - hops * dt


def logit_normal(
  rng: jax.Array, batch: int, dt: int, num_steps: int, *, mean: float = 0.0, std: float = 1.0
) -> jax.Array:
  """t/T ~ sigmoid(N(mean, std²)) for every example, cut to dt .. T, int32 [b, 1, 1, 1].

  It dwells where a picture's layout is decided (Esser et al., 2024, Eq. 19: rf/lognorm).
  """
  share = jax.nn.sigmoid(mean + std * jax.random.normal(rng, (batch, 1, 1, 1)))
  return jnp.clip(jnp.ceil(share * num_steps), dt, num_steps).astype(jnp.int32)


SAMPLE_T = dict(grid=grid, logit_normal=logit_normal, per_example=per_example, shared=shared)


class Hop(NamedTuple):
  """A step of a sampler, from t to s by way of u, about half-way; each [b, 1, 1, 1].

  Attributes:
    t, u, s: int32.
    halves: whether the half steps are steps of a number that is one of `counts` too.
    chosen: which of `counts`, int32.
  """

  t: jax.Array
  u: jax.Array
  s: jax.Array
  halves: jax.Array
  chosen: jax.Array


def draw_hop(rng: jax.Array, batch: int, *, num_steps: int, counts: Sequence[int]) -> Hop:
  """A step of a sampler of n steps, n drawn from `counts`, for every example."""
  count_rng, place_rng = jax.random.split(rng)
  chosen = jax.random.randint(count_rng, (batch, 1, 1, 1), 0, len(counts))
  n = jnp.array(counts)[chosen]
  place = jnp.floor(jax.random.uniform(place_rng, (batch, 1, 1, 1)) * n)
  t, u, s = (  # As `trailing` spaces the times of n steps.
    jnp.round(num_steps * (n - place - part) / n).astype(jnp.int32) for part in (0, 0.5, 1)
  )
  return Hop(t, u, s, jnp.isin(2 * n, jnp.array(counts)), chosen)


def trailing(num_steps: int, steps: int, offset: int = 0) -> list[int]:
  """T, T - T/n, ...: the one spacing that starts from what is all noise."""
  return [round(num_steps * (steps - i) / steps) for i in range(steps)]


def leading(num_steps: int, steps: int, offset: int = 0) -> list[int]:
  """Multiples of ⌊T/n⌋, moved up by `offset`; it never visits T unless n = T."""
  stride = num_steps // steps
  return [i * stride + offset + 1 for i in reversed(range(steps))]


def linspace(num_steps: int, steps: int, offset: int = 0) -> list[int]:
  """Even from T to 1, both included."""
  gaps = max(steps - 1, 1)
  return [1 + round((num_steps - 1) * (1 - i / gaps)) for i in range(steps)]


def lcm(num_steps: int, steps: int, offset: int = 0) -> list[int]:
  """Of the 50 times at which latent consistency models are trained, T among them, an even choice.

  Raises:
    UserError: more steps than that.
  """
  trained = min(LCM_TIMES, num_steps)
  if steps > trained:
    raise UserError(f"Cannot sample in {steps} steps with the spacing 'lcm'; choose 1..{trained}.")
  return [(trained - trained * i // steps) * (num_steps // trained) for i in range(steps)]


LCM_TIMES = 50  # diffusers' original_inference_steps.
SPACINGS = dict(lcm=lcm, leading=leading, linspace=linspace, trailing=trailing)


class Timesteps(NamedTuple):
  """Which times a sampler visits. Models that were trained here are sampled by the defaults.

  diffusers counts its timesteps from 0: its index i is our t = i + 1, as our t = 0 is no noise.

  Attributes:
    spacing: one of SPACINGS: diffusers' `timestep_spacing`, or 'lcm', that of its LCMScheduler.
    offset: added to the times of 'leading', diffusers' `steps_offset`.
    last: where sampling ends. 0: the last prediction x̂; 1: the level of the first timestep, which
      keeps a little noise (`set_alpha_to_one=False`).
    clip: the largest |x̂|, or None (`clip_sample`, `clip_sample_range`).
  """

  spacing: str = 'trailing'
  offset: int = 0
  last: int = 0
  clip: float | None = None

  def times(self, num_steps: int, steps: int) -> tuple[int, ...]:
    """The times to visit, in `steps` steps, the last included: 1000, 750, 500, 250, 0.

    Raises:
      UserError: an unknown spacing, or more steps than the schedule has room for.
    """
    spaced = choose(SPACINGS, self.spacing, 'spacing')
    if not 1 <= steps <= num_steps:
      raise UserError(f'Cannot sample in {steps} steps; choose 1..{num_steps}.')
    times = spaced(num_steps, steps, self.offset)
    if times[0] > num_steps:
      raise UserError(
        f'Cannot sample in {steps} steps: {self.spacing!r} with offset {self.offset} would start '
        f'at {times[0]} of {num_steps}; choose fewer steps or another spacing.'
      )
    return (*times, self.last)
