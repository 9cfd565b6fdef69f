from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdd.training import sharding
from cdd.training import state as states
from cdd.training import step as steps
from cdd.training.optimizer import adamw, schedule
from cdd.training.targets import ema, periodic


def objective(params, target, frozen, batch, rng, step):
  """A least-squares fit with noise: enough to see who moves and which key is drawn."""
  noise = 0.01 * jax.random.normal(rng, batch['y'].shape)
  out = batch['x'] @ params['w'] * frozen['scale'] + params['b'][None]
  pull = ((params['w'] - target['w']) ** 2).sum()
  loss = ((out - batch['y'] - noise) ** 2).mean() + 0.1 * pull
  return loss, dict(pull=pull)


@pytest.fixture
def problem():
  rng = np.random.default_rng(0)
  params = dict(w=jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), b=jnp.zeros((2,)))
  batch = dict(
    x=rng.normal(size=(16, 3)).astype(np.float32), y=rng.normal(size=(16, 2)).astype(np.float32)
  )
  return params, dict(scale=jnp.float32(2.0)), batch


def follow(target, params, step):
  return ema(target, params, step, decay=0.9)


def test_the_target_is_the_exponential_moving_average_of_the_parameters(problem):
  params, frozen, batch = problem
  optimizer = optax.sgd(0.1)
  step = jax.jit(steps.make(objective, optimizer, follow))
  state = states.create(params, optimizer)
  expected = np.asarray(params['w'])
  for _ in range(5):
    state, _ = step(state, frozen, batch, jax.random.key(0))
    expected = 0.9 * expected + 0.1 * np.asarray(state.params['w'])
  np.testing.assert_allclose(state.target['w'], expected, rtol=1e-5)


def test_with_gamma_0_the_target_is_the_network_itself_and_nothing_is_kept(problem):
  params, frozen, batch = problem

  def pulled(params, target, frozen, batch, rng, step):
    target = jax.lax.stop_gradient({**params, **target})
    return ((batch['x'] @ (params['w'] + target['w']) - batch['y']) ** 2).mean(), {}

  def run(decay, has_copy):
    step = jax.jit(steps.make(pulled, optax.sgd(0.1), partial(ema, decay=decay)))
    state = states.create(params, optax.sgd(0.1), has_copy=has_copy)
    for _ in range(3):
      state, _ = step(state, frozen, batch, jax.random.key(0))
    return state

  alone, copied = run(0.0, has_copy=False), run(1e-30, has_copy=True)
  assert alone.target == {} and copied.target.keys() == params.keys()
  assert not np.array_equal(alone.params['w'], params['w'])
  np.testing.assert_allclose(alone.params['w'], copied.params['w'], rtol=1e-6)
  for state in (alone, copied):
    assert np.array_equal(state.evaluated['w'], state.params['w'])


def test_state_holds_trainable_parameters_only_and_the_frozen_tree_survives_donation(problem):
  params, frozen, batch = problem
  optimizer = adamw(steps=10, learning_rate=1e-2)
  step = jax.jit(steps.make(objective, optimizer, follow), donate_argnums=0)
  state = states.create(params, optimizer)
  for _ in range(3):
    state, _ = step(state, frozen, batch, jax.random.key(0))
  assert float(frozen['scale']) == 2.0
  leaves = jax.tree_util.tree_flatten_with_path(state)[0]
  assert not any('scale' in jax.tree_util.keystr(path) for path, _ in leaves)
  assert int(state.step) == 3


def test_one_step_equals_sgd_written_in_numpy(problem):
  params, frozen, batch = problem

  def plain(params, target, frozen, batch, rng, step):
    return ((batch['x'] @ params['w'] + params['b'][None] - batch['y']) ** 2).mean(), {}

  step = jax.jit(steps.make(plain, optax.sgd(0.5), follow))
  state, metrics = step(states.create(params, optax.sgd(0.5)), frozen, batch, jax.random.key(0))
  w, x, y = np.asarray(params['w']), batch['x'], batch['y']
  residual = x @ w - y
  np.testing.assert_allclose(state.params['w'], w - 0.5 * 2 * x.T @ residual / y.size, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss'], (residual**2).mean(), rtol=1e-5)


def test_accumulated_gradients_equal_those_of_the_whole_batch(problem):
  params, frozen, batch = problem

  def plain(params, target, frozen, batch, rng, step):
    return ((batch['x'] @ params['w'] + params['b'][None] - batch['y']) ** 2).mean(), {}

  def run(accumulate):
    step = jax.jit(steps.make(plain, optax.sgd(0.5), follow, accumulate=accumulate))
    return step(states.create(params, optax.sgd(0.5)), frozen, batch, jax.random.key(0))

  (whole, logged), (parts, logged_parts) = run(1), run(4)
  np.testing.assert_allclose(parts.params['w'], whole.params['w'], rtol=1e-5)
  np.testing.assert_allclose(logged_parts['loss'], logged['loss'], rtol=1e-5)


def test_a_resumed_run_draws_what_an_unbroken_one_draws(problem):
  params, frozen, batch = problem
  optimizer = adamw(steps=10, learning_rate=1e-2)
  step = jax.jit(steps.make(objective, optimizer, follow))
  state = states.create(params, optimizer)
  for index in range(6):
    if index == 3:  # Through the host, as a checkpoint goes.
      state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), state)
    state, _ = step(state, frozen, batch, jax.random.key(7))
  unbroken = states.create(params, optimizer)
  for _ in range(6):
    unbroken, _ = step(unbroken, frozen, batch, jax.random.key(7))
  assert all(
    np.array_equal(a, b)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(unbroken), strict=True)
  )


def test_multipliers_scale_the_learning_rate_of_matching_paths():
  params = {'adapter.mu': jnp.zeros(()), 'unet.w': jnp.zeros((2, 2))}
  optimizer = adamw(steps=10, learning_rate=1e-3, clip=0.0, multipliers=((r'.*mu', 20.0),))
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose(updates['adapter.mu'] / updates['unet.w'][0, 0], 20.0, rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
  params = {'w': jnp.zeros((4,))}
  optimizer = optax.chain(adamw(steps=10, learning_rate=1.0, clip=1.0))
  first, _ = optimizer.update({'w': jnp.full((4,), 1e3)}, optimizer.init(params), params)
  second, _ = optimizer.update({'w': jnp.full((4,), 1e6)}, optimizer.init(params), params)
  np.testing.assert_allclose(first['w'], second['w'], rtol=1e-5)


def test_the_learning_rate_rises_holds_and_falls_to_zero():
  rate = schedule(peak=2.0, steps=100, warmup=10, decay='linear', hold=0.5)
  found = [float(rate(step)) for step in (0, 5, 10, 49, 75, 100)]
  np.testing.assert_allclose(found, [0, 1.0, 2.0, 2.0, 1.0, 0.0], atol=1e-6)


def test_the_periodic_target_copies_and_waits():
  old, new = {'w': jnp.zeros(2)}, {'w': jnp.ones(2)}
  assert float(periodic(old, new, jnp.int32(1), every=3)['w'][0]) == 0.0
  assert float(periodic(old, new, jnp.int32(2), every=3)['w'][0]) == 1.0


def test_moments_and_averages_lie_as_their_parameter_does():
  mesh = sharding.make_mesh(devices=jax.devices())
  params = {'w': jnp.zeros((256, 64)), 'b': jnp.zeros((64,))}
  state = jax.eval_shape(lambda: states.create(params, adamw(steps=1, learning_rate=1.0)))
  places = sharding.of_state(state, mesh)
  assert places.target['w'] == places.params['w']


def test_an_unfitting_mesh_names_its_sizes():
  with pytest.raises(ValueError, match='data=3, fsdp=1'):
    sharding.make_mesh(data=3, fsdp=1, devices=jax.devices())
