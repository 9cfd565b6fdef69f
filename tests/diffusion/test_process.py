import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import DDIMScheduler

from cdd.diffusion import distances, guidance, parametrizations, predictors, schedules, times
from cdd.diffusion.process import (
  Pair,
  compose,
  decompose,
  rectified_flow,
  variance_preserving,
  velocity,
)

RNG = np.random.default_rng(0)


def draw(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.fixture
def level():
  """Three levels of a variance-preserving process."""
  angle = jnp.asarray(RNG.uniform(0.1, 1.4, size=(3, 1, 1, 1)), jnp.float32)
  return variance_preserving(jnp.cos(angle), jnp.sin(angle))


@pytest.fixture
def straight():
  """Three levels of a rectified flow."""
  sigma = jnp.asarray(RNG.uniform(0.1, 0.9, size=(3, 1, 1, 1)), jnp.float32)
  return rectified_flow(1 - sigma, sigma)


@pytest.fixture(params=['level', 'straight'])
def either(request):
  return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def strict():
  with jax.numpy_dtype_promotion('strict'):
    yield


def test_the_velocity_view_is_another_view_of_the_signal_and_noise_view(either):
  pair = Pair(draw(3, 4, 4, 2), draw(3, 4, 4, 2))
  z, v = compose(pair, either), velocity(pair, either)
  back = decompose(z, v, either)
  np.testing.assert_allclose(back.x, pair.x, atol=1e-5)
  np.testing.assert_allclose(back.eps, pair.eps, atol=1e-5)
  # In float64: (z, v) is the matrix of the level times (x, eps), and its inverse leads back.
  alpha, sigma, alpha_dot, sigma_dot = (np.asarray(c, np.float64).ravel() for c in either)
  matrix = np.array([[alpha, sigma], [alpha_dot, sigma_dot]]).transpose(2, 0, 1)
  stack = lambda *arrays: np.stack([np.asarray(a, np.float64).reshape(3, -1) for a in arrays], 1)
  np.testing.assert_allclose(stack(z, v), matrix @ stack(*pair), atol=1e-5)
  np.testing.assert_allclose(np.linalg.inv(matrix) @ stack(z, v), stack(*back), atol=1e-5)


def test_the_velocity_of_a_rectified_flow_is_the_noise_less_the_signal(straight):
  pair = Pair(draw(3, 4, 4, 2), draw(3, 4, 4, 2))
  np.testing.assert_allclose(velocity(pair, straight), pair.eps - pair.x, rtol=1e-6)


def test_equations_1_and_7_in_numpy(level):
  x, eps = RNG.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
  a, s = np.asarray(level.alpha), np.asarray(level.sigma)
  z = compose(Pair(jnp.asarray(x), jnp.asarray(eps)), level)
  np.testing.assert_allclose(z, a * x + s * eps, rtol=1e-6)
  v = RNG.normal(size=x.shape).astype(np.float32)
  pair = decompose(z, jnp.asarray(v), level)
  np.testing.assert_allclose(pair.x, a * np.asarray(z) - s * v, rtol=1e-6)
  np.testing.assert_allclose(pair.eps, a * v + s * np.asarray(z), rtol=1e-6)


def test_equation_8_is_the_ddim_update_of_equation_6(either):
  z, v = draw(3, 4, 4, 2), draw(3, 4, 4, 2)
  at_s = either._replace(alpha=either.sigma, sigma=either.alpha)
  x = decompose(z, v, either).x
  equation_6 = at_s.alpha * x + at_s.sigma * (z - either.alpha * x) / either.sigma
  equation_8 = compose(decompose(z, v, either), at_s)
  np.testing.assert_allclose(equation_8, equation_6, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('kind', parametrizations.KINDS)
def test_every_parametrisation_goes_to_v_and_back(kind, either):
  z, v = draw(3, 4, 4, 2), draw(3, 4, 4, 2)
  out = parametrizations.from_v(kind, z, v, either)
  np.testing.assert_allclose(parametrizations.to_v(kind, z, out, either), v, atol=2e-4)


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


EVERY_SCHEDULE = [
  *((name, dict(zero_terminal_snr=True)) for name in ('cosine', 'linear', 'scaled_linear')),
  *((name, {}) for name in sorted(schedules.SCHEDULES)),
  ('flow', dict(shift=3.0)),
]


@pytest.mark.parametrize(('name', 'settings'), EVERY_SCHEDULE)
def test_row_zero_of_every_schedule_is_clean_and_its_columns_are_a_process(name, settings):
  schedule = schedules.SCHEDULES[name](**settings)
  alpha, sigma, alpha_dot, sigma_dot = (np.asarray(c, np.float64) for c in schedule.table)
  assert schedule.num_steps == 1000 and {c.dtype for c in schedule.table} == {np.dtype('float32')}
  assert (alpha[0], sigma[0]) == (1.0, 0.0)
  assert (np.diff(alpha) < 0).all() and (np.diff(sigma) >= 0).all()  # Of float32.
  np.testing.assert_allclose(alpha * sigma_dot - sigma * alpha_dot, 1, atol=1e-6)
  whole = 1.0 if name == 'flow' else 2.0
  np.testing.assert_allclose(alpha**whole + sigma**whole, 1, atol=1e-6)
  if settings or name == 'flow':
    assert alpha[-1] == 0.0
  # The derivatives are those of the table: along it, each column moves as its derivative says.
  moves = (np.diff(alpha), np.diff(sigma))
  middle = lambda column: (column[1:] + column[:-1]) / 2
  along = np.hypot(*moves)
  slopes = np.stack([middle(alpha_dot), middle(sigma_dot)])
  cosine = (np.stack(moves) * slopes).sum(0) / along / np.hypot(*slopes)
  np.testing.assert_allclose(cosine, 1, atol=1e-3)


def test_a_shifted_flow_spends_more_of_its_rows_on_noise():
  sigma = np.asarray(schedules.flow(num_steps=4, shift=3.0).table.sigma, np.float64)
  even = np.arange(5) / 4
  np.testing.assert_allclose(sigma, 3 * even / (1 + 2 * even), rtol=1e-6)


@pytest.mark.parametrize('name', ['linear', 'scaled_linear', 'squaredcos_cap_v2'])
@pytest.mark.parametrize('zero', [False, True])
def test_the_tables_equal_diffusers(name, zero):
  fields = dict(beta_schedule=name, beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=zero)
  theirs = DDIMScheduler(**fields).alphas_cumprod.numpy()
  ours = np.asarray(schedules.from_diffusers(fields).table.alpha)
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


def test_timesteps_start_and_end_where_they_say():
  assert times.Timesteps().times(1000, 4) == (1000, 750, 500, 250, 0)
  assert times.Timesteps().times(1000, 1) == times.Timesteps('linspace').times(1000, 1) == (1000, 0)
  assert times.Timesteps('leading', offset=1, last=1).times(1000, 4) == (752, 502, 252, 2, 1)
  with pytest.raises(ValueError, match='0 steps'):
    times.Timesteps().times(1000, 0)
  with pytest.raises(ValueError, match='1001 of 1000'):
    times.Timesteps('leading', offset=1).times(1000, 1000)
  with pytest.raises(ValueError, match="'even'.*trailing"):
    times.Timesteps('even').times(1000, 4)


@pytest.mark.parametrize('spacing', sorted(times.SPACINGS.keys() - {'lcm'}))
@pytest.mark.parametrize('steps', [2, 3, 7, 20, 50, 999, 1000])
def test_the_spacings_are_those_of_diffusers(spacing, steps):
  theirs = DDIMScheduler(timestep_spacing=spacing)
  theirs.set_timesteps(steps)
  ours = times.Timesteps(spacing).times(1000, steps)
  assert [t - 1 for t in ours[:-1]] == theirs.timesteps.tolist()


def test_guidance_of_one_is_none_and_its_arguments_are_named():
  a, b = draw(1, 2, 2, 1), draw(1, 2, 2, 1)
  same = guidance.classifier_free(conditional=a, unconditional=b, scale=1.0)
  np.testing.assert_allclose(same, a, rtol=1e-5, atol=1e-6)
  more = guidance.classifier_free(conditional=a, unconditional=b, scale=3.0)
  np.testing.assert_allclose(more, 3 * np.asarray(a) - 2 * np.asarray(b), rtol=1e-4, atol=1e-5)
