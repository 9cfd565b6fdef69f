"""Owns step-aware distillation: one network for 1 to many steps, as it is given its step.

In Algorithm 1 one output has to be both the posterior mean of x, which d_x asks for, and the end of
the trajectory, which d_ε asks for. They differ. Here a share of each batch learns where a step of
size d ends, from two half steps of the target network, and the rest learns the posterior mean, with
no step given. This goes beyond the paper, whose single stage, signal loss and self-consistency it
has; the step as an input is that of shortcut models (Frans et al., 2024, arXiv:2410.12557) and of
consistency trajectory models (Kim et al., 2023, arXiv:2310.02279). With guidance it learns where
guided steps end, given their scale: one evaluation for two (Meng et al., 2023, arXiv:2210.03142).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cdd.core.errors import UserError
from cdd.core.types import Array, Batch, Denoise, Nets
from cdd.diffusion import distances, times
from cdd.diffusion.process import Level, Pair, compose, decompose, step_between, velocity
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
  counts: Sequence[int] = (1, 2, 4, 8),
  weights: Sequence[float] = (),
  guidance: Sequence[float] = (),
) -> tuple[Array, dict[str, Array]]:
  """The error of v for one batch, of which a share learns steps.

  Args:
    distance: of the predicted v to its target, over the whole batch.
    share: the part of the batch that learns steps, one example at least; 0 is plain fine-tuning.
    share_warmup: updates over which the share rises from 0.
    counts: the numbers of steps that a sampler may take; the steps of each are learnt.
    weights: of the error of a step of each of `counts`, beside 1 where no step is given; (w,): w
      for all; (): 1 for all.
    guidance: the least and the largest scale that steps are guided by; the scale of each is drawn
      between them, and the network is given it. (): none.

  Raises:
    UserError: neither one weight nor as many as counts.
  """
  if weights and len(weights) not in (1, len(counts)):
    raise UserError(
      f'method.weights={weights} needs one number, or one for each of method.counts={counts}.'
    )
  t_rng, eps_rng = jax.random.split(rng)
  x = batch.x  # (x, c) ~ p_data; c is bound to the networks.
  t = sample_t(t_rng, x.shape[0], 1, num_steps)
  eps = jax.random.normal(eps_rng, x.shape, x.dtype)  # ε ~ N(0, I)
  if not share:
    at_t = schedule(t)
    v = nets.online(compose(Pair(x, eps), at_t), t, None)
    return distance(velocity(Pair(x, eps), at_t), v), {}

  count = max(round(share * x.shape[0]), 1)
  # Folded, not split: a share of 0 then draws what fine-tuning draws.
  step_rng, active_rng, scale_rng = jax.random.split(jax.random.fold_in(t_rng, 1), 3)
  rise = jnp.minimum((step + 1) / max(share_warmup, 1), 1)
  active = jax.random.uniform(active_rng, (count, 1, 1, 1)) < rise
  hop = times.draw_hop(step_rng, count, num_steps=num_steps, counts=counts)
  s = t.at[:count].set(jnp.where(active, hop.s, t[:count]))
  t = t.at[:count].set(jnp.where(active, hop.t, t[:count]))  # Where s = t: no step.
  at_t = schedule(t)
  z_t = compose(Pair(x, eps), at_t)  # Eq. 1
  real = velocity(Pair(x, eps), at_t)
  rows = slice(0, count)
  online, half = nets.online, nets.target.rows(rows)
  if guidance:
    scale = jax.random.uniform(scale_rng, hop.t.shape, None, *guidance)
    online = online.told(jnp.ones(t.shape).at[rows].set(scale))
    once = jnp.where(hop.halves, 1, scale)  # What is learnt is guided already.
    half = half.told(scale).guided(once, jax.tree.map(lambda leaf: leaf[rows], batch.negative))
  ends = jax.lax.stop_gradient(end_of_step(half, z_t[rows], hop, schedule=schedule))
  target = real.at[rows].set(jnp.where(active, ends, real[rows]))
  v = online(z_t, t, s)
  error, has_step = (v - target) ** 2, s < t
  weight = None
  if weights:
    of_count = jnp.broadcast_to(jnp.array(weights), len(counts))
    weight = jnp.ones(t.shape).at[rows].set(jnp.where(active, of_count[hop.chosen], 1))
  metrics = dict(consistency=mean_of(error, has_step), guidance=mean_of(error, ~has_step))
  return distance(v, target, weight), metrics


def mean_of(values: Array, rows: Array) -> Array:
  """The mean over some rows, a mask [b, 1, 1, 1]; 0 if there are none."""
  return jnp.sum(rows * values) / jnp.maximum(values[0].size * rows.sum(), 1)


def end_of_step(denoise: Denoise, z_t: Array, hop: times.Hop, *, schedule: Callable) -> Array:
  """The velocity at t whose DDIM step to s ends where two half steps do.

  Half steps that are not learnt are those of the posterior mean: no step is given.
  """
  t, u, s, halves, _ = hop
  at_t, at_u, at_s = schedule(t), schedule(u), schedule(s)
  v_t = denoise(z_t, t, jnp.where(halves, u, t))
  z_u = compose(decompose(z_t, v_t, at_t), at_u)
  v_u = denoise(z_u, u, jnp.where(halves, s, u))
  z_s = compose(decompose(z_u, v_u, at_u), at_s)
  return velocity(step_between(z_t, z_s, at_t, at_s), at_t)


STEP_AWARE = Method(
  loss,
  networks=('online', 'target'),
  settings=dict(sample_t=times.SAMPLE_T, distance=distances.DISTANCES),
  sampler='consistency',
  plots=('loss', 'consistency', 'guidance'),
)
