"""Owns the paper's method: conditional diffusion distillation in a single stage (Algorithm 1)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cdd.diffusion.process import Level, Pair, compose, decompose
from cdd.registry import choose
from cdd.types import Array, Batch, Nets

# What multiplies d_x at a level. The paper: nothing. As ‖x − x̂‖² = σ² ‖v − v̂‖², 'velocity' asks
# of every level what the usual v-loss asks; 'snr' is Salimans & Ho's truncated SNR.
WEIGHTINGS = dict(
  none=lambda level: jnp.ones_like(level.sigma),
  velocity=lambda level: 1 / jnp.maximum(level.sigma, 0.1) ** 2,
  snr=lambda level: jnp.clip((level.alpha / jnp.maximum(level.sigma, 1e-3)) ** 2, 1, 100),
)


def loss(
  nets: Nets,
  batch: Batch,
  rng: Array,
  step: Array,
  *,
  schedule: Callable[[Array], Level],
  num_steps: int,
  sample_t: Callable,
  predictor: Callable,
  d_eps: Callable,
  d_x: Callable,
  dt: int = 1,
  eps_weight: float = 1.0,
  x_weight: float = 1.0,
  weighting: str = 'none',
) -> tuple[Array, dict[str, Array]]:
  """Algorithm 1 for one batch: noise-space self-consistency plus conditional guidance (Eq. 11).

  Args:
    dt: Δt, in steps of the schedule.
    predictor: which (x, ε) make ẑ_s; `prev` is Eq. 12, `ddim` Eq. 8.
    eps_weight, x_weight: weights of d_ε and d_x; x_weight 0 is §5.1's r = 0.
    weighting: of d_x over levels, one of WEIGHTINGS.
  """
  weigh = choose(WEIGHTINGS, weighting, 'weighting')
  t_rng, eps_rng = jax.random.split(rng)
  x, c = batch  # (x, c) ~ p_data
  t = sample_t(t_rng, x.shape[0], dt, num_steps)  # t ~ [Δt, T]
  s = t - dt
  eps = jax.random.normal(eps_rng, x.shape, x.dtype)  # ε ~ N(0, I)
  at_t, at_s = schedule(t), schedule(s)
  real = Pair(x, eps)
  z_t = compose(real, at_t)  # Eq. 1
  online = decompose(z_t, nets.online(z_t, c, t), at_t)  # Eq. 7
  guidance = d_x(x, online.x, weigh(at_t))
  if not eps_weight:
    return x_weight * guidance, dict(guidance=guidance)
  teacher = lambda: decompose(z_t, nets.teacher(z_t, c, t), at_t)
  z_s = jax.lax.stop_gradient(compose(predictor(online, real, teacher), at_s))  # Eq. 8 or Eq. 12
  # Algorithm 1 prints t here, Eq. 11 prints s; ẑ_s lies at s.
  target = jax.lax.stop_gradient(decompose(z_s, nets.target(z_s, c, s), at_s))
  consistency = d_eps(online.eps, target.eps)
  drift = jnp.mean((target.eps - eps) ** 2)
  metrics = dict(consistency=consistency, guidance=guidance, eps_drift=drift)
  return eps_weight * consistency + x_weight * guidance, metrics
