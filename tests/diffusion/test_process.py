import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import DDIMScheduler

from cdd.diffusion import distances, guidance, parametrizations, predictors, schedules, times
from cdd.diffusion.process import Level, Pair, compose, decompose, velocity

RNG = np.random.default_rng(0)


def draw(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.fixture
def level():
  angle = jnp.asarray(RNG.uniform(0.1, 1.4, size=(3, 1, 1, 1)), jnp.float32)
  return Level(jnp.cos(angle), jnp.sin(angle))


@pytest.fixture(autouse=True)
def strict():
  with jax.numpy_dtype_promotion('strict'):
    yield


def test_the_velocity_view_is_the_signal_and_noise_view_rotated(level):
  pair = Pair(draw(3, 4, 4, 2), draw(3, 4, 4, 2))
  back = decompose(compose(pair, level), velocity(pair, level), level)
  np.testing.assert_allclose(back.x, pair.x, atol=1e-5)
  np.testing.assert_allclose(back.eps, pair.eps, atol=1e-5)


def test_equations_1_and_7_in_numpy(level):
  x, eps = RNG.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
  a, s = np.asarray(level.alpha), np.asarray(level.sigma)
  z = compose(Pair(jnp.asarray(x), jnp.asarray(eps)), level)
  np.testing.assert_allclose(z, a * x + s * eps, rtol=1e-6)
  v = RNG.normal(size=x.shape).astype(np.float32)
  pair = decompose(z, jnp.asarray(v), level)
  np.testing.assert_allclose(pair.x, a * np.asarray(z) - s * v, rtol=1e-6)
  np.testing.assert_allclose(pair.eps, a * v + s * np.asarray(z), rtol=1e-6)


def test_equation_8_is_the_ddim_update_of_equation_6(level):
  z, v = draw(3, 4, 4, 2), draw(3, 4, 4, 2)
  at_s = Level(level.sigma, level.alpha)
  x = decompose(z, v, level).x
  equation_6 = at_s.alpha * x + at_s.sigma * (z - level.alpha * x) / level.sigma
  equation_8 = compose(decompose(z, v, level), at_s)
  np.testing.assert_allclose(equation_8, equation_6, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('kind', parametrizations.KINDS)
def test_every_parametrisation_goes_to_v_and_back(kind, level):
  z, v = draw(3, 4, 4, 2), draw(3, 4, 4, 2)
  out = parametrizations.from_v(kind, z, v, level)
  np.testing.assert_allclose(parametrizations.to_v(kind, z, out, level), v, atol=2e-4)


def test_an_unknown_parametrisation_lists_the_choices(level):
  with pytest.raises(ValueError, match="'eps'.*'epsilon', 'sample', 'v_prediction'"):
    parametrizations.to_v('eps', draw(3, 1, 1, 1), draw(3, 1, 1, 1), level)


def test_prev_mixes_the_predicted_signal_with_the_real_noise(level):
  online, real = Pair(draw(3, 2, 2, 1), draw(3, 2, 2, 1)), Pair(draw(3, 2, 2, 1), draw(3, 2, 2, 1))

  def never():
    raise AssertionError('prev and ddim must not evaluate the teacher')

  z_s = compose(predictors.prev(online, real, never), level)
  expected = np.asarray(level.alpha) * np.asarray(online.x)
  expected = expected + np.asarray(level.sigma) * np.asarray(real.eps)  # Eq. 12.
  np.testing.assert_allclose(z_s, expected, rtol=1e-5)
  assert predictors.ddim(online, real, never) is online
  assert predictors.teacher(online, real, lambda: real) is real


def test_row_zero_of_every_schedule_is_clean_and_levels_are_unit():
  for make in schedules.SCHEDULES.values():
    schedule = make(zero_terminal_snr=True)
    assert schedule.num_steps == 1000
    assert (float(schedule.alphas[0]), float(schedule.sigmas[0])) == (1.0, 0.0)
    assert float(schedule.alphas[-1]) == 0.0
    np.testing.assert_allclose(schedule.alphas**2 + schedule.sigmas**2, 1, atol=1e-6)
    assert (np.diff(schedule.alphas) < 0).all()


@pytest.mark.parametrize('name', ['linear', 'scaled_linear', 'squaredcos_cap_v2'])
@pytest.mark.parametrize('zero', [False, True])
def test_the_tables_equal_diffusers(name, zero):
  from diffusers import DDIMScheduler

  fields = dict(beta_schedule=name, beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=zero)
  theirs = DDIMScheduler(**fields).alphas_cumprod.numpy()
  ours = np.asarray(schedules.from_diffusers(fields).alphas)
  # diffusers works in float32, where the last rows of its table carry an error of about 1e-4.
  np.testing.assert_allclose(ours[1:] ** 2, theirs, atol=2e-5)


def test_the_backbone_reads_t_minus_one():
  t = jnp.array([0, 1, 1000]).reshape(3, 1, 1, 1)
  assert schedules.index(t).ravel().tolist() == [0, 0, 999]


def test_distances_equal_numpy():
  a, b = RNG.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
  weight = RNG.uniform(size=(3, 1, 1, 1)).astype(np.float32)
  got = distances.squared_l2(jnp.asarray(a), jnp.asarray(b), jnp.asarray(weight))
  np.testing.assert_allclose(got, (weight * (a - b) ** 2).mean(), rtol=1e-5)
  huber = distances.pseudo_huber(jnp.asarray(a), jnp.asarray(b), c=0.1)
  np.testing.assert_allclose(huber, (np.sqrt((a - b) ** 2 + 0.01) - 0.1).mean(), rtol=1e-4)


def test_a_metric_of_images_becomes_a_weighted_mean():
  a, b = draw(2, 2, 2, 1), draw(2, 2, 2, 1)
  metric = distances.per_example(lambda a, b: jnp.abs(a - b).mean((1, 2, 3)))
  each = np.abs(np.asarray(a) - np.asarray(b)).mean((1, 2, 3))
  np.testing.assert_allclose(metric(a, b), each.mean(), rtol=1e-5)
  weight = jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)
  np.testing.assert_allclose(metric(a, b, weight), (each[0] + 3 * each[1]) / 2, rtol=1e-5)


def test_times_lie_between_dt_and_t_inclusive_and_shared_draws_one():
  draws = times.per_example(jax.random.key(0), 4000, 3, 10)
  assert set(np.unique(draws).tolist()) == set(range(3, 11))
  assert len(np.unique(times.shared(jax.random.key(1), 64, 1, 1000))) == 1


@pytest.mark.parametrize(('dt', 'visited'), [(125, range(125, 1001, 125)), (300, (400, 700, 1000))])
def test_the_grid_holds_what_hops_of_dt_visit(dt, visited):
  draws = times.grid(jax.random.key(0), 4000, dt, 1000)
  assert draws.shape == (4000, 1, 1, 1)
  levels, counts = np.unique(draws, return_counts=True)
  assert levels.tolist() == list(visited)
  assert counts.min() > 0.8 * 4000 / len(levels)


def test_a_walk_starts_and_ends_where_it_says():
  assert times.Walk().times(1000, 4) == (1000, 750, 500, 250, 0)
  assert times.Walk().times(1000, 1) == times.Walk('linspace').times(1000, 1) == (1000, 0)
  assert times.Walk('leading', offset=1, last=1).times(1000, 4) == (752, 502, 252, 2, 1)
  with pytest.raises(ValueError, match='0 steps'):
    times.Walk().times(1000, 0)
  with pytest.raises(ValueError, match='1001 of 1000'):
    times.Walk('leading', offset=1).times(1000, 1000)
  with pytest.raises(ValueError, match="'even'.*trailing"):
    times.Walk('even').times(1000, 4)


@pytest.mark.parametrize('spacing', sorted(times.SPACINGS))
@pytest.mark.parametrize('steps', [2, 3, 7, 20, 50, 999, 1000])
def test_the_spacings_are_those_of_diffusers(spacing, steps):
  theirs = DDIMScheduler(timestep_spacing=spacing)
  theirs.set_timesteps(steps)
  ours = times.Walk(spacing).times(1000, steps)
  assert [t - 1 for t in ours[:-1]] == theirs.timesteps.tolist()


def test_guidance_of_one_is_none_and_its_arguments_are_named():
  a, b = draw(1, 2, 2, 1), draw(1, 2, 2, 1)
  same = guidance.classifier_free(conditional=a, unconditional=b, scale=1.0)
  np.testing.assert_allclose(same, a, rtol=1e-5, atol=1e-6)
  more = guidance.classifier_free(conditional=a, unconditional=b, scale=3.0)
  np.testing.assert_allclose(more, 3 * np.asarray(a) - 2 * np.asarray(b), rtol=1e-4, atol=1e-5)
