"""Step-aware distillation against closed forms: a Gaussian, fine-tuning, zero gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdd.core.types import Batch, Nets
from cdd.diffusion import schedules, times
from cdd.diffusion.process import Pair, compose, decompose, velocity
from cdd.methods import METHODS, step_aware

SCHEDULE = schedules.scaled_linear(beta_end=0.016)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(8, 2, 2, 3)), jnp.float32)
MEAN, STD = 0.7, 0.5


class Network(NamedTuple):
  """A network of one weight that depends on z, t, the step and a condition per example."""

  w: jax.Array
  c: jax.Array

  def __call__(self, z, t, s):
    step = 0 if s is None else (t - s).astype(jnp.float32)
    return jnp.tanh(z * self.w + 0.3 * self.c) + 0.001 * t.astype(jnp.float32) + 0.002 * step

  def rows(self, rows):
    return self._replace(c=self.c[rows])


class Gaussian(NamedTuple):
  """The exact posterior mean's velocity for data N(MEAN, STD²), whatever the step."""

  def __call__(self, z, t, s):
    level = SCHEDULE(t)
    gain = level.alpha * STD**2 / (level.alpha**2 * STD**2 + level.sigma**2)
    x = MEAN + gain * (z - level.alpha * MEAN)
    return velocity(Pair(x, (z - level.alpha * x) / level.sigma), level)

  def rows(self, rows):
    return self


def network(w):
  return Network(w, X[:, :1, :1, :1])


def loss(online, target, *, step=0, **settings):
  settings = dict(sample_t=times.per_example) | settings
  return step_aware.loss(
    Nets(online=online, target=target),
    Batch(X),
    jax.random.key(0),
    jnp.int32(step),
    schedule=SCHEDULE,
    num_steps=1000,
    **settings,
  )


def test_without_a_share_it_is_finetune_bit_for_bit():
  ours = jax.jit(jax.value_and_grad(lambda w: loss(network(w), None, share=0.0)[0]))(0.4)
  plain = METHODS['finetune'].loss
  settings = dict(schedule=SCHEDULE, num_steps=1000, sample_t=times.per_example)
  of = lambda w: plain(
    Nets(online=network(w)), Batch(X), jax.random.key(0), jnp.int32(0), **settings
  )
  theirs = jax.jit(jax.value_and_grad(lambda w: of(w)[0]))(0.4)
  assert [float(a) for a in ours] == [float(a) for a in theirs]


@pytest.mark.parametrize('size', [1000, 500, 250])
def test_the_target_of_a_step_is_where_two_half_steps_end(size):
  z = jnp.asarray(RNG.normal(size=(8, 2, 2, 3)), jnp.float32)
  t = jnp.full((8, 1, 1, 1), 1000)
  s = t - size
  hop = step_aware.Hop(t, t - size // 2, s, jnp.array(True))
  v = step_aware.end_of_step(Gaussian(), z, hop, schedule=SCHEDULE)
  one = compose(decompose(z, v, SCHEDULE(t)), SCHEDULE(s))
  # Two DDIM steps, written in NumPy with the exact posterior mean.
  alphas, sigmas = (np.asarray(a, np.float64) for a in (SCHEDULE.alphas, SCHEDULE.sigmas))
  two = np.asarray(z, np.float64)
  for here, there in ((1000, 1000 - size // 2), (1000 - size // 2, 1000 - size)):
    a, b = alphas[here], sigmas[here]
    x = MEAN + a * STD**2 / (a**2 * STD**2 + b**2) * (two - a * MEAN)
    two = alphas[there] * x + sigmas[there] * (two - a * x) / b
  np.testing.assert_allclose(one, two, atol=2e-4)


def test_the_half_steps_of_the_smallest_step_are_given_none():
  seen = []

  class Spy(Gaussian):
    def __call__(self, z, t, s):
      seen.append((np.asarray(t - s)).ravel().tolist())
      return super().__call__(z, t, s)

  t, u, s, halves = ([1000, 1000, 125], [750, 938, 62], [500, 875, 0], [True, True, False])
  hop = step_aware.Hop(*(jnp.array(part).reshape(3, 1, 1, 1) for part in (t, u, s, halves)))
  step_aware.end_of_step(Spy(), jnp.zeros((3, 1, 1, 1)), hop, schedule=SCHEDULE)
  assert seen == [[250, 62, 0], [250, 63, 0]]


def test_steps_are_those_of_a_sampler_and_their_halves_those_of_one_of_twice_as_many():
  hop = step_aware.draw_hop(jax.random.key(0), 6000, num_steps=1000, counts=(1, 2, 4, 8, 16))
  t, u, s, halves = (np.ravel(part).tolist() for part in hop)
  visited = {n: times.Timesteps().times(1000, n) for n in (1, 2, 4, 8, 16, 32)}
  expected = {
    (visited[n][m], visited[2 * n][2 * m + 1], visited[n][m + 1], n < 16)
    for n in (1, 2, 4, 8, 16)
    for m in range(n)
  }
  assert set(zip(t, u, s, halves, strict=True)) == expected


def test_no_gradient_reaches_the_target():
  def value(w, w_target):
    return loss(network(w), network(w_target))[0]

  assert float(jax.grad(value, argnums=1)(0.4, 0.6)) == 0.0
  assert float(jax.grad(value)(0.4, 0.6)) != 0.0


def test_the_loss_is_the_mean_of_both_parts_by_their_share():
  total, metrics = loss(network(0.4), network(0.6), share=0.25)
  parts = 0.25 * metrics['consistency'] + 0.75 * metrics['guidance']
  np.testing.assert_allclose(total, parts, rtol=1e-5)


def test_before_the_warm_up_no_example_learns_a_step():
  _, first = loss(network(0.4), network(0.6), share_warmup=10**9)
  assert float(first['consistency']) == 0.0
  _, later = loss(network(0.4), network(0.6), share_warmup=10, step=9)
  assert float(later['consistency']) > 0
