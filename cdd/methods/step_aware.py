"""Owns step-aware distillation: one network for 1 to many steps, as it is given its step.

In Algorithm 1 one output has to be both the posterior mean of x, which d_x asks for, and the end of
the trajectory, which d_ε asks for. They differ. Here a share of each batch learns where a step of
size d ends, from two half steps of the target network, and the rest learns the posterior mean, with
no step given. This goes beyond the paper, whose single stage, signal loss and self-consistency it
has; the step as an input is that of shortcut models (Frans et al., 2024, arXiv:2410.12557) and of
consistency trajectory models (Kim et al., 2023, arXiv:2310.02279).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cdd.core.types import Array, Batch, Denoise, Nets
from cdd.diffusion import distances, times
from cdd.diffusion.process import Level, Pair, compose, decompose, velocity
from cdd.methods.method import Method


def loss(
  nets: Nets,
  batch: Batch,
  rng: Array,
  step: Array,
  *,
  schedule: Callable[[Array], Level],
  num_steps: int,
  sample_t: Callable,
  distance: Callable = distances.squared_l2,
  share: float = 0.5,
  share_warmup: int = 0,
  steps: Sequence[int] = (1000, 500, 250, 125),
) -> tuple[Array, dict[str, Array]]:
  """The error of v for one batch, of which a share learns steps.

  Args:
    distance: of the predicted v to its target, over the whole batch.
    share: the part of the batch that learns steps; 0 is plain fine-tuning.
    share_warmup: updates over which the share rises from 0.
    steps: the sizes of steps that are learnt, in steps of the schedule; each divides T.
  """
  t_rng, eps_rng = jax.random.split(rng)
  x = batch.x  # (x, c) ~ p_data; c is bound to the networks.
  t = sample_t(t_rng, x.shape[0], 1, num_steps)
  eps = jax.random.normal(eps_rng, x.shape, x.dtype)  # ε ~ N(0, I)
  count = round(share * x.shape[0])
  if not count:
    at_t = schedule(t)
    v = nets.online(compose(Pair(x, eps), at_t), t, None)
    return distance(velocity(Pair(x, eps), at_t), v), {}

  step_rng, active_rng = jax.random.split(jax.random.fold_in(t_rng, 1))
  rise = jnp.minimum((step + 1) / max(share_warmup, 1), 1)
  active = jax.random.uniform(active_rng, (count, 1, 1, 1)) < rise
  start, d = draw_steps(step_rng, count, num_steps=num_steps, steps=steps)
  t = t.at[:count].set(jnp.where(active, start, t[:count]))
  s = t.at[:count].add(-jnp.where(active, d, 0))  # s = t: no step.
  at_t = schedule(t)
  z_t = compose(Pair(x, eps), at_t)  # Eq. 1
  real = velocity(Pair(x, eps), at_t)
  rows = slice(0, count)
  taught = end_of_step(
    nets.target.rows(rows), z_t[rows], t[rows], s[rows], schedule=schedule, least=min(steps)
  )
  target = real.at[rows].set(jnp.where(active, jax.lax.stop_gradient(taught), real[rows]))
  v = nets.online(z_t, t, s)
  error, has_step = (v - target) ** 2, s < t
  metrics = dict(consistency=mean_of(error, has_step), guidance=mean_of(error, ~has_step))
  return distance(v, target), metrics


def mean_of(values: Array, rows: Array) -> Array:
  """The mean over some rows, a mask [b, 1, 1, 1]; 0 if there are none."""
  return jnp.sum(rows * values) / jnp.maximum(values[0].size * rows.sum(), 1)


def draw_steps(rng: Array, count: int, *, num_steps: int, steps: Sequence[int]):
  """(t, d), int32 [count, 1, 1, 1] each: a size and a level that a sampler of such steps visits."""
  size_rng, place_rng = jax.random.split(rng)
  sizes = jnp.array(steps, jnp.int32)
  d = sizes[jax.random.randint(size_rng, (count, 1, 1, 1), 0, len(steps))]
  place = jax.random.uniform(place_rng, (count, 1, 1, 1))
  return num_steps - d * jnp.floor(place * (num_steps // d)).astype(jnp.int32), d


def end_of_step(
  denoise: Denoise, z_t: Array, t: Array, s: Array, *, schedule: Callable, least: int
) -> Array:
  """The velocity at t whose DDIM step to s ends where two half steps do.

  Args:
    least: a step of this size is learnt from half steps of the posterior mean (no step given).
  """
  u = (t + s) // 2
  at_t, at_u, at_s = schedule(t), schedule(u), schedule(s)
  given = t - s > least
  v_t = denoise(z_t, t, jnp.where(given, u, t))
  z_u = compose(decompose(z_t, v_t, at_t), at_u)
  v_u = denoise(z_u, u, jnp.where(given, s, u))
  z_s = compose(decompose(z_u, v_u, at_u), at_s)
  # The pair whose step leads z_t to z_s (progressive distillation: Salimans & Ho, 2022, App. G).
  ratio = at_s.sigma / at_t.sigma
  gap = at_s.alpha - ratio * at_t.alpha
  x = (z_s - ratio * z_t) / jnp.where(gap == 0, 1, gap)  # Rows without a step: not used.
  return velocity(Pair(x, (z_t - at_t.alpha * x) / at_t.sigma), at_t)


STEP_AWARE = Method(
  loss,
  networks=('online', 'target'),
  settings=dict(sample_t=times.SAMPLE_T, distance=distances.DISTANCES),
  sampler='consistency',
  plots=('loss', 'consistency', 'guidance'),
)
