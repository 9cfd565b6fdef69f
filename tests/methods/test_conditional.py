import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdd.core.types import Batch, Nets
from cdd.diffusion import distances, predictors, schedules, times
from cdd.methods import conditional, finetune

SCHEDULE = schedules.scaled_linear(zero_terminal_snr=True)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(4, 2, 2, 3)), jnp.float32)
C = jnp.asarray(RNG.normal(size=(4, 2, 2, 3)), jnp.float32)


def network(w):
  """A small network that depends on z, t and the condition that is bound to it."""
  return lambda z, t, s: jnp.tanh(z * w + 0.3 * C) + 0.001 * t.astype(jnp.float32)


def loss_of(nets, *, rng=0, step=0, **settings):
  settings = (
    dict(
      num_steps=1000,
      sample_t=times.per_example,
      predictor=predictors.prev,
      d_eps=distances.squared_l2,
      d_x=distances.squared_l2,
      dt=20,
    )
    | settings
  )
  key = jax.random.key(rng)
  return conditional.loss(nets, Batch(X), key, jnp.int32(step), schedule=SCHEDULE, **settings)


def loss(w, w_target, **settings):
  encode, decode = lambda image: image + 1, lambda z: 2 * z
  return loss_of(Nets(network(w), network(w_target), network(0.1), encode, decode), **settings)


def numpy_loss(w, w_target, *, predictor, dt=20, s_min=0):
  """Algorithm 1, line by line, in NumPy float64."""
  t_rng, eps_rng = jax.random.split(jax.random.key(0))
  t = np.asarray(times.per_example(t_rng, 4, dt, 1000))
  eps = np.asarray(jax.random.normal(eps_rng, X.shape), np.float64)
  table_a = np.asarray(SCHEDULE.table.alpha, np.float64)
  table_s = np.asarray(SCHEDULE.table.sigma, np.float64)
  x, c = np.asarray(X, np.float64), np.asarray(C, np.float64)

  def w_theta(w, z, t):
    return np.tanh(z * w + 0.3 * c) + 0.001 * t

  s = t - dt
  z_t = table_a[t] * x + table_s[t] * eps
  v_t = w_theta(w, z_t, t)
  x_t = table_a[t] * z_t - table_s[t] * v_t
  eps_t = table_a[t] * v_t + table_s[t] * z_t
  z_s = table_a[s] * x_t + table_s[s] * (eps if predictor == 'prev' else eps_t)
  eps_s = table_a[s] * w_theta(w_target, z_s, s) + table_s[s] * z_s
  return ((s >= s_min) * (eps_t - eps_s) ** 2).mean() + ((x - x_t) ** 2).mean()


@pytest.mark.parametrize('settings', [dict(dt=20), dict(dt=125, s_min=500)])
@pytest.mark.parametrize('predictor', ['prev', 'ddim'])
def test_the_loss_is_algorithm_1_written_in_numpy(predictor, settings):
  value, metrics = loss(0.4, 0.6, predictor=predictors.PREDICTORS[predictor], **settings)
  np.testing.assert_allclose(
    value, numpy_loss(0.4, 0.6, predictor=predictor, **settings), rtol=1e-4
  )
  np.testing.assert_allclose(value, metrics['consistency'] + metrics['guidance'], rtol=1e-6)


def test_the_consistency_weight_rises_over_the_warm_up():
  whole, metrics = loss(0.4, 0.6)
  first, _ = loss(0.4, 0.6, eps_warmup=10)
  last, _ = loss(0.4, 0.6, eps_warmup=10, step=9)
  np.testing.assert_allclose(first, 0.1 * metrics['consistency'] + metrics['guidance'], rtol=1e-6)
  np.testing.assert_allclose(last, whole, rtol=1e-6)


@pytest.mark.parametrize(
  ('t', 's_min', 'used'), [(125, 0, True), (249, 125, False), (250, 125, True)]
)
def test_the_target_is_used_from_s_min_on(t, s_min, used):
  at = lambda rng, batch, dt, num_steps: jnp.full((batch, 1, 1, 1), t)
  _, metrics = loss(0.4, 0.6, sample_t=at, dt=125, s_min=s_min)
  assert (float(metrics['consistency']) > 0) == used


def test_no_gradient_passes_through_the_target_branch():
  assert float(jax.grad(lambda w: loss(0.4, w)[0])(0.6)) == 0.0

  # θ reaches the target through ẑ_s as well: the gradient must be that of a constant target.
  def frozen_target(w, held):
    t_rng, eps_rng = jax.random.split(jax.random.key(0))
    t = times.per_example(t_rng, 4, 20, 1000)
    eps = jax.random.normal(eps_rng, X.shape)
    (a, s, *_), (a_s, s_s, *_) = SCHEDULE(t), SCHEDULE(t - 20)
    z_t = a * X + s * eps
    v, v_held = network(w)(z_t, t, t - 20), network(held)(z_t, t, t - 20)
    z_s = a_s * (a * z_t - s * v_held) + s_s * eps
    eps_s = a_s * network(0.6)(z_s, t - 20, None) + s_s * z_s
    return ((a * v + s * z_t - eps_s) ** 2).mean() + ((X - (a * z_t - s * v)) ** 2).mean()

  ours = jax.grad(lambda w: loss(w, 0.6)[0])(0.4)
  np.testing.assert_allclose(ours, jax.grad(frozen_target)(0.4, 0.4), rtol=1e-4)


def test_a_constant_noise_prediction_satisfies_consistency_and_guidance_excludes_it():
  constant = 0.37

  def degenerate(z, t, s):  # The v for which α v + σ z = constant.
    alpha, sigma, *_ = SCHEDULE(t)
    return (constant - sigma * z) / jnp.maximum(alpha, 1e-6)

  nets = Nets(degenerate, degenerate)
  _, metrics = loss_of(nets, rng=3, num_steps=900, predictor=predictors.ddim)
  assert float(metrics['consistency']) < 1e-8
  assert float(metrics['guidance']) > 0.1


def test_without_consistency_the_target_network_is_never_called():
  def never(z, t, s):
    raise AssertionError

  value, metrics = loss_of(Nets(network(0.4), never, never), eps_weight=0.0)
  assert float(value) == float(metrics['guidance'])


def test_each_network_is_asked_for_the_step_that_it_is_to_make():
  asked = {}

  def recorded(name):
    def call(z, t, s):
      asked[name] = None if s is None else np.asarray(t - s)
      return network(0.4)(z, t, s)

    return call

  nets = Nets(*map(recorded, ('online', 'target', 'teacher')))
  loss_of(nets, predictor=predictors.teacher)
  assert (asked['online'] == 20).all() and (asked['teacher'] == 20).all()
  assert asked['target'] is None


def test_velocity_weighting_turns_the_signal_error_into_the_velocity_error():
  t_rng, eps_rng = jax.random.split(jax.random.key(0))
  t = times.per_example(t_rng, 4, 100, 1000)  # σ > 0.1 from there on.
  eps = jax.random.normal(eps_rng, X.shape)
  alpha, sigma, *_ = SCHEDULE(t)
  v = alpha * eps - sigma * X
  error = ((v - network(0.4)(alpha * X + sigma * eps, t, None)) ** 2).mean()
  value, _ = loss(0.4, 0.4, weighting='velocity', eps_weight=0.0, dt=100)
  np.testing.assert_allclose(value, error, rtol=1e-3)


def test_velocity_weighting_of_both_terms_compares_velocities():
  t_rng, eps_rng = jax.random.split(jax.random.key(0))
  t = times.per_example(t_rng, 4, 100, 900)
  alpha, sigma, *_ = SCHEDULE(t)
  weights = conditional.WEIGHTINGS['velocity'](SCHEDULE(t))
  np.testing.assert_allclose(weights.eps * alpha**2, 1, rtol=1e-4)
  np.testing.assert_allclose(weights.x * sigma**2, 1, rtol=1e-4)


def test_figure_3_compares_latents_pixels_and_reencoded_latents():
  guidance = lambda space: float(loss(0.4, 0.6, x_space=space)[1]['guidance'])
  np.testing.assert_allclose(guidance('pixel'), 4 * guidance('latent'), rtol=1e-5)
  t_rng, eps_rng = jax.random.split(jax.random.key(0))
  t = times.per_example(t_rng, 4, 20, 1000)
  alpha, sigma, *_ = SCHEDULE(t)
  z = alpha * X + sigma * jax.random.normal(eps_rng, X.shape)
  guess = alpha * z - sigma * network(0.4)(z, t, None)
  expected = ((X - (2 * guess + 1)) ** 2).mean()  # x itself is not encoded again.
  np.testing.assert_allclose(guidance('reencoded'), expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('setting', 'message'),
  [
    (dict(weighting='heavy'), "'heavy'.*'none', 'snr', 'velocity'"),
    (dict(x_space='voxel'), "'voxel'.*'latent', 'pixel', 'reencoded'"),
  ],
)
def test_an_unknown_choice_lists_the_choices(setting, message):
  with pytest.raises(ValueError, match=message):
    loss(0.4, 0.4, **setting)


def test_finetune_is_the_mean_squared_error_of_the_velocity():
  t_rng, eps_rng = jax.random.split(jax.random.key(5))
  t = times.per_example(t_rng, 4, 1, 1000)
  eps = jax.random.normal(eps_rng, X.shape)
  alpha, sigma, *_ = SCHEDULE(t)
  expected = (
    (alpha * eps - sigma * X - network(0.4)(alpha * X + sigma * eps, t, None)) ** 2
  ).mean()
  value, _ = finetune.loss(
    Nets(network(0.4)),
    Batch(X),
    jax.random.key(5),
    jnp.int32(0),
    schedule=SCHEDULE,
    num_steps=1000,
    sample_t=times.per_example,
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)
