"""Owns the paper's method: conditional diffusion distillation in a single stage (Algorithm 1)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdd.core.registry import choose
from cdd.core.types import Array, Batch, Nets
from cdd.diffusion import distances, predictors, times
from cdd.diffusion.process import Level, Pair, compose, decompose
from cdd.methods.method import Method
from cdd.metrics import lpips

LEAST = 0.02  # Below this a weight does not grow further.


class Weights(NamedTuple):
  """What multiplies the two terms at a level, each [b, 1, 1, 1] or 1."""

  eps: Array | float
  x: Array | float


def velocity(level: Level) -> Weights:
  """Both terms as errors of v: ‖ε − ε̂‖² = α² ‖v − v̂‖² and ‖x − x̂‖² = σ² ‖v − v̂‖²."""

  def inverse(factor):
    return 1 / jnp.maximum(factor, LEAST) ** 2

  return Weights(eps=inverse(level.alpha), x=inverse(level.sigma))


def snr(level: Level) -> Weights:
  """d_x by the truncated signal-to-noise ratio max(α²/σ², 1) (Salimans & Ho, 2022)."""
  ratio = (level.alpha / jnp.maximum(level.sigma, LEAST)) ** 2
  return Weights(eps=1.0, x=jnp.maximum(ratio, 1))


# The paper weighs no level more than another: 'none'.
WEIGHTINGS = dict(none=lambda level: Weights(1.0, 1.0), snr=snr, velocity=velocity)

# In which space d_x compares: (signal, predicted signal) -> what is compared. Figure 3 names these.
SPACES = dict(
  latent=lambda nets, x, guess: (x, guess),
  pixel=lambda nets, x, guess: (nets.decode(x), nets.decode(guess)),
  reencoded=lambda nets, x, guess: (x, nets.encode(nets.decode(guess))),
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
  s_min: int = 0,
  eps_weight: float = 1.0,
  eps_warmup: int = 0,
  x_weight: float = 1.0,
  weighting: str = 'none',
  x_space: str = 'latent',
) -> tuple[Array, dict[str, Array]]:
  """Algorithm 1 for one batch: noise-space self-consistency plus conditional guidance (Eq. 11).

  Args:
    dt: Δt, in steps of the schedule.
    s_min: d_ε counts where s is at least this. In Algorithm 1 every s counts; but below Δt no t is
      drawn, so that the target is not trained there, and at s = 0 there is no ε to predict.
    predictor: which (x, ε) make ẑ_s; `prev` is Eq. 12, `ddim` Eq. 8.
    eps_weight, x_weight: weights of d_ε and d_x; x_weight 0 is §5.1's r = 0.
    eps_warmup: updates over which eps_weight rises from 0: consistency passes on what guidance has
      taught, and at first that is nothing about the condition.
    weighting: of both terms over levels, one of WEIGHTINGS.
    x_space: where d_x compares, one of SPACES (Figure 3).
  """
  weigh, view = choose(WEIGHTINGS, weighting, 'weighting'), choose(SPACES, x_space, 'x_space')
  t_rng, eps_rng = jax.random.split(rng)
  x = batch.x  # (x, c) ~ p_data; c is bound to the networks.
  t = sample_t(t_rng, x.shape[0], dt, num_steps)  # t ~ [Δt, T]
  s = t - dt
  eps = jax.random.normal(eps_rng, x.shape, x.dtype)  # ε ~ N(0, I)
  at_t, at_s = schedule(t), schedule(s)
  real = Pair(x, eps)
  z_t = compose(real, at_t)  # Eq. 1
  online = decompose(z_t, nets.online(z_t, t, s), at_t)  # Eq. 7
  weights = weigh(at_t)
  guidance = d_x(*view(nets, x, online.x), weights.x)
  if not eps_weight:
    return x_weight * guidance, dict(guidance=guidance)

  def teacher():
    return decompose(z_t, nets.teacher(z_t, t, s), at_t)

  z_s = jax.lax.stop_gradient(compose(predictor(online, real, teacher), at_s))  # Eq. 8 or Eq. 12
  # Algorithm 1 prints t here, Eq. 11 prints s; ẑ_s lies at s.
  target = jax.lax.stop_gradient(decompose(z_s, nets.target(z_s, s, None), at_s))
  consistency = d_eps(online.eps, target.eps, weights.eps * (s >= s_min))
  drift = jnp.mean((target.eps - eps) ** 2)
  metrics = dict(consistency=consistency, guidance=guidance, eps_drift=drift)
  rise = jnp.minimum((step + 1) / max(eps_warmup, 1), 1)
  return eps_weight * rise * consistency + x_weight * guidance, metrics


CONDITIONAL = Method(
  loss,
  networks=('online', 'target', 'teacher', 'encode', 'decode'),
  settings=dict(
    sample_t=times.SAMPLE_T,
    predictor=predictors.PREDICTORS,
    d_eps=distances.DISTANCES,
    d_x=dict(distances.DISTANCES, lpips=distances.per_example(lpips.of_images)),
  ),
  sampler='consistency',
  plots=('loss', 'consistency', 'guidance'),
)
