"""Samplers on Gaussian data N(m, s²), for which the denoiser is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cdd.diffusion import schedules, times
from cdd.diffusion.samplers import SAMPLERS
from cdd.diffusion.samplers.ddim import ddim
from cdd.pretrained import scheduler

MEAN, STD = 0.7, 0.5
SCHEDULE = schedules.scaled_linear(zero_terminal_snr=True)


def denoise(z, t):
  """v of the posterior mean of x given z."""
  alpha, sigma = SCHEDULE(t)
  gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
  x = MEAN + gain * (z - alpha * MEAN)
  safe = jnp.maximum(sigma, 1e-6)
  eps = (z - alpha * x) / safe
  return alpha * eps - sigma * x


def run(sampler, steps, count=20000, **settings):
  z = jax.random.normal(jax.random.key(0), (count, 1, 1, 1))
  grid = times.Walk().times(1000, steps)
  sample = jax.jit(
    lambda z: sampler(denoise, z, jax.random.key(1), schedule=SCHEDULE, times=grid, **settings)
  )
  return np.asarray(sample(z)).ravel()


@pytest.mark.parametrize(('name', 'steps'), [('ddim', 100), ('ancestral', 250)])
def test_many_steps_recover_the_data_distribution(name, steps):
  x = run(SAMPLERS[name], steps)
  assert abs(x.mean() - MEAN) < 0.02
  assert abs(x.std() - STD) < 0.03


@pytest.mark.parametrize('name', sorted(SAMPLERS))
def test_one_step_returns_the_signal_predicted_at_pure_noise(name):
  np.testing.assert_allclose(run(SAMPLERS[name], 1, count=8), MEAN, atol=1e-5)


@pytest.mark.parametrize(
  'fields',
  [
    dict(timestep_spacing='trailing', clip_sample=False),
    dict(timestep_spacing='leading', steps_offset=1, set_alpha_to_one=False, clip_sample=False),
    dict(timestep_spacing='leading', set_alpha_to_one=False),
    dict(timestep_spacing='leading', clip_sample_range=0.8),
  ],
)
def test_ddim_takes_the_steps_that_diffusers_takes(fields):
  from diffusers import DDIMScheduler

  theirs = DDIMScheduler(
    beta_schedule='scaled_linear',
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type='v_prediction',
    rescale_betas_zero_snr=True,
    **fields,
  )
  theirs.set_timesteps(5)
  start = np.random.default_rng(0).normal(size=(6, 1, 1, 1)).astype(np.float32)
  z = torch.tensor(start)
  for index in theirs.timesteps:
    t = jnp.full((6, 1, 1, 1), int(index) + 1)
    v = torch.tensor(np.asarray(denoise(jnp.asarray(z.numpy()), t)))
    z = theirs.step(v, index, z).prev_sample
  walk = scheduler.walk(theirs.config)
  visited = dict(times=walk.times(1000, 5), clip=walk.clip)
  ours = ddim(denoise, jnp.asarray(start), jax.random.key(0), schedule=SCHEDULE, **visited)
  np.testing.assert_allclose(ours, z.numpy(), atol=2e-4)


def test_ancestral_has_the_posterior_variance_of_ddpm():
  level_t, level_s = SCHEDULE(jnp.full((1, 1, 1, 1), 600)), SCHEDULE(jnp.full((1, 1, 1, 1), 400))
  ratio = (level_t.alpha / level_s.alpha) ** 2
  variance = (1 - ratio) * level_s.sigma**2 / level_t.sigma**2  # q(z_s | z_t, x), Ho et al. Eq. 7.
  seen = {}

  def at_zero(z, t):
    seen[int(t.ravel()[0])] = z
    return jnp.zeros_like(z)

  z = jnp.zeros((50000, 1, 1, 1))
  with jax.disable_jit():
    SAMPLERS['ancestral'](at_zero, z, jax.random.key(0), schedule=SCHEDULE, times=(600, 400, 0))
  np.testing.assert_allclose(seen[400].var(), float(variance.ravel()[0]), rtol=0.03)


def test_renoising_uses_fresh_noise_and_the_deterministic_sampler_none():
  fresh = [run(SAMPLERS['consistency_renoise'], 3, count=5)]
  z = jax.random.normal(jax.random.key(0), (5, 1, 1, 1))
  grid = times.Walk().times(1000, 3)
  other = SAMPLERS['consistency_renoise'](
    denoise, z, jax.random.key(9), schedule=SCHEDULE, times=grid
  )
  assert np.abs(np.asarray(other).ravel() - fresh[0]).max() > 1e-3
  a, b = (
    SAMPLERS['consistency'](denoise, z, jax.random.key(k), schedule=SCHEDULE, times=grid)
    for k in (1, 9)
  )
  assert np.array_equal(a, b)


@pytest.mark.parametrize('visited', [(10, 10, 0), (10, 5, 7), (10, 5, -1)])
def test_times_that_do_not_fall_are_an_error(visited):
  with pytest.raises(ValueError, match='fall strictly'):
    ddim(denoise, jnp.zeros((1, 1, 1, 1)), jax.random.key(0), schedule=SCHEDULE, times=visited)
