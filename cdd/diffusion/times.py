"""Owns times: how training draws t, and which times a sampler visits."""

import jax
import jax.numpy as jnp

from cdd.errors import UserError


def shared(rng: jax.Array, batch: int, dt: int, num_steps: int) -> jax.Array:
  """One t ~ U{dt .. T} for the whole (global) batch, int32 [b, 1, 1, 1] (§5.1)."""
  t = jax.random.randint(rng, (1, 1, 1, 1), dt, num_steps + 1)
  return jnp.broadcast_to(t, (batch, 1, 1, 1))


def per_example(rng: jax.Array, batch: int, dt: int, num_steps: int) -> jax.Array:
  """t ~ U{dt .. T} for every example, int32 [b, 1, 1, 1]."""
  return jax.random.randint(rng, (batch, 1, 1, 1), dt, num_steps + 1)


def logit_normal(
  rng: jax.Array, batch: int, dt: int, num_steps: int, *, mean: float = 0.0, std: float = 1.0
) -> jax.Array:
  """t/T ~ sigmoid(N(mean, std²)) for every example, cut to dt .. T, int32 [b, 1, 1, 1].

  It dwells where a picture's layout is decided (Esser et al., 2024, Eq. 19: rf/lognorm).
  """
  share = jax.nn.sigmoid(mean + std * jax.random.normal(rng, (batch, 1, 1, 1)))
  return jnp.clip(jnp.ceil(share * num_steps), dt, num_steps).astype(jnp.int32)


SAMPLE_T = dict(logit_normal=logit_normal, per_example=per_example, shared=shared)


def trailing(num_steps: int, steps: int) -> tuple[int, ...]:
  """T .. 0 in `steps` even strides, both ends included: 1000, 750, 500, 250, 0."""
  _check(num_steps, steps)
  return tuple(round(num_steps * (steps - i) / steps) for i in range(steps + 1))


def leading(num_steps: int, steps: int) -> tuple[int, ...]:
  """diffusers' 'leading' spacing with offset 1: it never visits T."""
  _check(num_steps, steps)
  stride = num_steps // steps
  return (*(i * stride + 1 for i in reversed(range(steps))), 0)


def _check(num_steps: int, steps: int) -> None:
  if not 1 <= steps <= num_steps:
    raise UserError(f'Cannot sample in {steps} steps; choose 1..{num_steps}.')
