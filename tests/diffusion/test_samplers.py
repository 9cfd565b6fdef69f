"""Samplers on Gaussian data N(m, s²), for which the denoiser is known exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from cdd.diffusion import schedules, times
from cdd.diffusion.process import Pair, compose, velocity
from cdd.diffusion.samplers import SAMPLERS, loop
from cdd.diffusion.samplers.ddim import ddim
from cdd.diffusion.samplers.sampler import Move, Sampler
from cdd.pretrained import scheduler

MEAN, STD = 0.7, 0.5
SCHEDULE = schedules.scaled_linear(zero_terminal_snr=True)
FLOW = schedules.flow()


def denoise(z, t, s, schedule=SCHEDULE):
  """v of the posterior mean of x given z."""
  del s
  level = schedule(t)
  gain = level.alpha * STD**2 / (level.alpha**2 * STD**2 + level.sigma**2)
  x = MEAN + gain * (z - level.alpha * MEAN)
  return velocity(Pair(x, (z - level.alpha * x) / jnp.maximum(level.sigma, 1e-6)), level)


def run(sampler, steps, count=20000, schedule=SCHEDULE, key=1):
  """What a sampler makes of standard normal noise, [count]."""
  z = jax.random.normal(jax.random.key(0), (count, 1, 1, 1))
  visited = times.Timesteps().times(1000, steps)
  known = partial(denoise, schedule=schedule)
  settings = dict(schedule=schedule, times=visited)
  return np.asarray(loop.run(sampler, known, z, jax.random.key(key), **settings)).ravel()


@pytest.mark.parametrize(
  ('name', 'steps', 'schedule'),
  [('ddim', 100, SCHEDULE), ('ancestral', 250, SCHEDULE), ('ddim', 100, FLOW)],
)
def test_many_steps_recover_the_data_distribution(name, steps, schedule):
  x = run(SAMPLERS[name](), steps, schedule=schedule)
  assert abs(x.mean() - MEAN) < 0.02
  assert abs(x.std() - STD) < 0.03


def solution(z, t, s, schedule):
  """v whose step from t to s ends where the probability flow does (Song et al., 2021, Eq. 13)."""
  at_t, at_s = schedule(t), schedule(s)
  spread = lambda level: jnp.sqrt(level.alpha**2 * STD**2 + level.sigma**2)
  z_s = at_s.alpha * MEAN + spread(at_s) / spread(at_t) * (z - at_t.alpha * MEAN)
  determinant = at_t.alpha * at_s.sigma - at_s.alpha * at_t.sigma
  x = (at_s.sigma * z - at_t.sigma * z_s) / determinant  # Both are α x + σ ε of one pair.
  eps = (at_t.alpha * z_s - at_s.alpha * z) / determinant
  return velocity(Pair(x, eps), at_t)


@pytest.mark.parametrize('schedule', [SCHEDULE, FLOW], ids=['variance_preserving', 'flow'])
@pytest.mark.parametrize('name', ['consistency', 'consistency_renoise'])
def test_few_steps_of_what_a_distilled_model_tends_to_recover_the_data_distribution(name, schedule):
  def distilled(z, t, s):
    # A renoising sampler goes by x̂ alone, which is to be where the flow ends.
    return solution(z, t, s * 0 if name == 'consistency_renoise' else s, schedule)

  z = jax.random.normal(jax.random.key(0), (20000, 1, 1, 1))
  settings = dict(schedule=schedule, times=times.Timesteps().times(1000, 4))
  x = loop.run(SAMPLERS[name](), distilled, z, jax.random.key(1), **settings)
  assert abs(x.mean() - MEAN) < 0.02 and abs(x.std() - STD) < 0.02


@pytest.mark.parametrize('name', sorted(SAMPLERS))
@pytest.mark.parametrize('schedule', [SCHEDULE, FLOW], ids=['variance_preserving', 'flow'])
def test_one_step_returns_the_signal_predicted_at_pure_noise(name, schedule):
  np.testing.assert_allclose(run(SAMPLERS[name](), 1, 8, schedule), MEAN, atol=1e-5)


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
    v = torch.tensor(np.asarray(denoise(jnp.asarray(z.numpy()), t, None)))
    z = theirs.step(v, index, z).prev_sample
  timesteps = scheduler.timesteps(theirs.config)
  settings = dict(schedule=SCHEDULE, times=timesteps.times(1000, 5), clip=timesteps.clip)
  ours = loop.run(ddim(), denoise, jnp.asarray(start), jax.random.key(0), **settings)
  np.testing.assert_allclose(ours, z.numpy(), atol=2e-4)


def test_ancestral_has_the_posterior_variance_of_ddpm():
  at_t, at_s = SCHEDULE(jnp.full((1, 1, 1, 1), 600)), SCHEDULE(jnp.full((1, 1, 1, 1), 400))
  ratio = (at_t.alpha / at_s.alpha) ** 2
  variance = (1 - ratio) * at_s.sigma**2 / at_t.sigma**2  # q(z_s | z_t, x), Ho et al. Eq. 7.
  z = jnp.zeros((50000, 1, 1, 1))
  _, z_s = SAMPLERS['ancestral']().step((), Move(z, Pair(z, z), at_t, at_s, jax.random.key(0)))
  np.testing.assert_allclose(z_s.var(), float(variance.ravel()[0]), rtol=0.03)


def test_a_sampler_of_few_steps_gives_the_denoiser_its_step_and_any_other_none():
  seen = []

  def given(z, t, s):
    assert t.shape == s.shape == (2, 1, 1, 1)
    jax.debug.callback(lambda t, s: seen.append((t[0].item(), s[0].item())), t, s, ordered=True)
    return jnp.zeros_like(z)

  def not_given(z, t, s):
    assert s is None
    return jnp.zeros_like(z)

  settings = dict(schedule=SCHEDULE, times=(900, 600, 250, 0))
  start = (jnp.zeros((2, 1, 1, 1)), jax.random.key(0))
  loop.run(SAMPLERS['consistency'](), given, *start, **settings)
  jax.effects_barrier()
  assert seen == [(900, 600), (600, 250), (250, 0)]
  loop.run(ddim(), not_given, *start, **settings)


def test_renoising_uses_fresh_noise_and_the_deterministic_sampler_none():
  for name, fresh in dict(consistency_renoise=True, consistency=False).items():
    one, other = (run(SAMPLERS[name](), 3, count=5, key=key) for key in (1, 9))
    assert (np.abs(one - other).max() > 1e-3) == fresh
    assert np.array_equal(one, other) != fresh


def test_with_a_key_for_each_image_what_it_draws_does_not_depend_on_its_batch():
  settings = dict(schedule=SCHEDULE, times=(1000, 500, 0))
  draw = partial(loop.run, SAMPLERS['consistency_renoise'](), denoise, **settings)
  draw = jax.jit(draw)
  z, keys = (
    jax.random.normal(jax.random.key(0), (3, 2, 2, 1)),
    jax.random.split(jax.random.key(1), 3),
  )
  order = jnp.array([2, 0, 1])
  whole = draw(z, keys)
  assert np.array_equal(draw(z[order], keys[order]), whole[order])
  assert np.abs(whole - draw(z, keys[order])).max() > 1e-3


@pytest.mark.parametrize('visited', [(10, 10, 0), (10, 5, 7), (10, 5, -1)])
def test_times_that_do_not_fall_are_an_error(visited):
  settings = dict(schedule=SCHEDULE, times=visited)
  with pytest.raises(ValueError, match='fall strictly'):
    loop.run(ddim(), denoise, jnp.zeros((1, 1, 1, 1)), jax.random.key(0), **settings)


def two_step():
  """The second-order multistep rule of Adams and Bashforth in λ = σ/α of z/α, dz/α = ε dλ.

  Its memory is the noise of the step before and that step's width; the first is Euler's.
  """

  def init(z):
    return z * 0, jnp.zeros((z.shape[0], 1, 1, 1))

  def step(memory, move):
    before, width = memory
    ratio = lambda level: level.sigma / level.alpha
    now = ratio(move.at_s) - ratio(move.at_t)
    share = jnp.where(width == 0, 0.0, now / (2 * jnp.where(width == 0, 1.0, width)))
    eps = move.pair.eps + share * (move.pair.eps - before)
    z = move.at_s.alpha * (move.z / move.at_t.alpha + now * eps)
    return (move.pair.eps, now), z

  return Sampler(step, init)


def test_a_sampler_sees_what_it_carried_from_the_step_before():
  """In NumPy step by step; and what it remembers brings it nearer to where the flow leads."""
  start = np.linspace(-2, 2, 5).reshape(5, 1, 1, 1)
  visited = tuple(range(900, 99, -100))
  settings = dict(schedule=SCHEDULE, times=visited)
  z = jnp.asarray(start, jnp.float32)
  ours = loop.run(two_step(), denoise, z, jax.random.key(0), **settings)

  alpha, sigma = (np.asarray(column, np.float64) for column in SCHEDULE.table[:2])
  spread = lambda t: np.sqrt(alpha[t] ** 2 * STD**2 + sigma[t] ** 2)

  def noise(z, t):
    gain = alpha[t] * STD**2 / spread(t) ** 2
    return (z - alpha[t] * (MEAN + gain * (z - alpha[t] * MEAN))) / sigma[t]

  z, before, width = start, None, None
  for t, s in zip(visited[:-1], visited[1:], strict=True):
    now, eps = sigma[s] / alpha[s] - sigma[t] / alpha[t], noise(z, t)
    used = eps if before is None else eps + now / (2 * width) * (eps - before)
    z, before, width = alpha[s] * (z / alpha[t] + now * used), eps, now
  np.testing.assert_allclose(ours, z, rtol=1e-4, atol=1e-5)

  first, last = visited[0], visited[-1]
  exact = alpha[last] * MEAN + spread(last) / spread(first) * (start - alpha[first] * MEAN)
  forgetful = loop.run(
    ddim(), denoise, jnp.asarray(start, jnp.float32), jax.random.key(0), **settings
  )
  error = lambda z: np.abs(z - exact).max()
  print('error with memory', error(ours), 'without', error(forgetful))
  assert error(ours) < 0.6 * error(forgetful)


def test_the_memory_may_be_any_tree_and_the_steps_are_one_compiled_body():
  def count(memory, move):
    return dict(memory, steps=memory['steps'] + 1), compose(move.pair, move.at_s) + memory['steps']

  counter = Sampler(count, lambda z: dict(steps=jnp.zeros((), z.dtype), unused=()))
  zeros, traced = jnp.zeros((2, 1, 1, 1)), []

  def nothing(z, t, s):
    traced.append(t)
    return jnp.zeros_like(z)

  settings = dict(schedule=FLOW, times=(1000, 750, 500, 250, 0))
  out = loop.run(counter, nothing, zeros, jax.random.key(0), **settings)
  # With v = 0 a flow leaves z where it is; the steps add 0, 1, 2 and 3.
  np.testing.assert_allclose(out, 6.0)
  assert len(traced) <= 2
