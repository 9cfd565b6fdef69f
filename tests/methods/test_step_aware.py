"""Step-aware distillation against closed forms: a Gaussian, fine-tuning, zero gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdd.core.errors import UserError
from cdd.core.types import Batch, Nets
from cdd.diffusion import schedules, times
from cdd.diffusion.guidance import classifier_free
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
  hop = times.Hop(t, t - size // 2, s, jnp.array(True), None)
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
  hop = times.Hop(*(jnp.array(part).reshape(3, 1, 1, 1) for part in (t, u, s, halves)), None)
  step_aware.end_of_step(Spy(), jnp.zeros((3, 1, 1, 1)), hop, schedule=SCHEDULE)
  assert seen == [[250, 62, 0], [250, 63, 0]]


def test_steps_are_those_of_a_sampler_and_their_halves_those_of_one_of_twice_as_many():
  hop = times.draw_hop(jax.random.key(0), 6000, num_steps=1000, counts=(1, 2, 4, 8, 16))
  t, u, s, halves = (np.ravel(part).tolist() for part in hop[:4])
  visited = {n: times.Timesteps().times(1000, n) for n in (1, 2, 4, 8, 16, 32)}
  expected = {
    (visited[n][m], visited[2 * n][2 * m + 1], visited[n][m + 1], n < 16)
    for n in (1, 2, 4, 8, 16)
    for m in range(n)
  }
  assert set(zip(t, u, s, halves, strict=True)) == expected


def test_any_number_of_steps_can_be_learnt_and_half_steps_only_of_those_that_are():
  every = (1, 2, 3, 4, 5, 6, 7, 8)
  hop = times.draw_hop(jax.random.key(0), 6000, num_steps=1000, counts=every)
  drawn = set(zip(*(np.ravel(part).tolist() for part in hop[:4]), strict=True))
  visited = {n: times.Timesteps().times(1000, n) for n in range(1, 17)}
  expected = {
    (visited[n][m], visited[2 * n][2 * m + 1], visited[n][m + 1], n <= 4)
    for n in every
    for m in range(n)
  }
  assert drawn == expected


class Told(NamedTuple):
  """A network that is linear in its condition and in the scale that it is given with a step."""

  c: jax.Array
  scale: jax.Array | None = None

  def __call__(self, z, t, s):
    has_step = 0 if s is None else (s < t).astype(jnp.float32)
    scale = 0 if self.scale is None else self.scale
    return z * 0.5 + self.c + 0.1 * has_step * (1 + scale)

  def rows(self, rows):
    return self._replace(c=self.c[rows])

  def told(self, scale):
    return self._replace(scale=scale)

  def guided(self, scale, negative):
    unconditional = self._replace(c=negative)
    return lambda z, t, s: classifier_free(
      conditional=self(z, t, s), unconditional=unconditional(z, t, s), scale=scale
    )


def test_the_target_of_a_guided_step_is_where_two_guided_half_steps_end(monkeypatch):
  """Those of the smallest steps are guided, and those of larger ones are only given the scale."""
  seen = {}

  def distance(v, target, weight):
    assert weight is None
    seen.update(v=np.asarray(v), target=np.asarray(target))
    return jnp.mean((v - target) ** 2)

  def draw_hop(rng, batch, **_):
    t, u, s = (
      jnp.array(part * 2).reshape(4, 1, 1, 1) for part in ([500, 500], [438, 375], [375, 250])
    )
    halves = jnp.array([False, True] * 2).reshape(4, 1, 1, 1)
    return times.Hop(t, u, s, halves, None)

  monkeypatch.setattr(times, 'draw_hop', draw_hop)
  c = X[:, :1, :1, :1]
  net = Told(c)
  batch = Batch(X, negative=jnp.full_like(c, 0.3))
  settings = dict(schedule=SCHEDULE, num_steps=1000, sample_t=times.per_example)
  settings |= dict(distance=distance, guidance=(3.0, 3.0))
  rng = jax.random.key(0)
  step_aware.loss(Nets(online=net, target=net), batch, rng, jnp.int32(0), **settings)
  # The same in NumPy. The noise is what the loss draws first.
  eps = np.asarray(jax.random.normal(jax.random.split(rng)[1], X.shape), np.float64)
  alphas, sigmas = (np.asarray(a, np.float64) for a in (SCHEDULE.alphas, SCHEDULE.sigmas))
  c, x = np.asarray(c, np.float64), np.asarray(X, np.float64)
  z = alphas[500] * x + sigmas[500] * eps
  for row, (u, s, learnt) in enumerate([(438, 375, False), (375, 250, True)] * 2):
    prediction = lambda z, row=row, learnt=learnt: (
      0.5 * z + (c[row] + 0.1 * 4 if learnt else 0.3 + 3 * (c[row] - 0.3))
    )
    end = z[row]
    for here, there in ((500, u), (u, s)):
      v = prediction(end)
      clean = alphas[here] * end - sigmas[here] * v
      end = alphas[there] * clean + sigmas[there] * (alphas[here] * v + sigmas[here] * end)
    # One step of v from 500 to s ends there: z_s = x̂ α_s + ε̂ σ_s is linear in v.
    gain = alphas[500] * sigmas[s] - sigmas[500] * alphas[s]
    start = (alphas[500] * alphas[s] + sigmas[500] * sigmas[s]) * z[row]
    np.testing.assert_allclose(seen['target'][row], (end - start) / gain, atol=2e-4)
    np.testing.assert_allclose(seen['v'][row], 0.5 * z[row] + c[row] + 0.1 * 4, atol=1e-5)
  # The rest of the batch is given no step, and so no scale.
  rest = seen['v'][4:] - 0.5 * np.asarray(compose_rest(rng, eps))
  np.testing.assert_allclose(rest, np.broadcast_to(c[4:], rest.shape), atol=1e-5)


def test_the_scale_of_a_step_says_nothing_about_the_step():
  """Draws of one key under two names would: a fold of a key by 1 is the second of its split."""
  seen = {}

  class Spy(Told):
    def told(self, scale):
      seen['scale'] = np.ravel(scale)
      return super().told(scale)

    def __call__(self, z, t, s):
      seen.update(t=np.ravel(t), s=np.ravel(s))
      return super().__call__(z, t, s)

  x = jnp.zeros((8000, 1, 1, 1))
  settings = dict(schedule=SCHEDULE, num_steps=1000, sample_t=times.per_example)
  settings |= dict(share=1.0, guidance=(1.0, 8.0))
  rest = Batch(x, negative=x), jax.random.key(0), jnp.int32(0)
  step_aware.loss(Nets(online=Spy(x), target=Told(x)), *rest, **settings)
  assert fair(seen['scale'], 1, 8)
  for other in (seen['t'], seen['s'], seen['t'] - seen['s']):
    assert abs(np.corrcoef(seen['scale'], other)[0, 1]) < 0.05


def fair(draws, least, most):
  """Whether they are about even between two numbers."""
  parts = np.histogram(draws, bins=10, range=(least, most))[0]
  return parts.sum() == len(draws) and np.abs(parts / len(draws) - 0.1).max() < 0.02


def compose_rest(rng, eps):
  """z_t of the examples that learn no step."""
  t = times.per_example(jax.random.split(rng)[0], len(X), 1, 1000)[4:]
  return compose(Pair(X[4:], jnp.asarray(eps[4:], jnp.float32)), SCHEDULE(t))


def test_no_gradient_reaches_the_target():
  def value(w, w_target):
    return loss(network(w), network(w_target))[0]

  assert float(jax.grad(value, argnums=1)(0.4, 0.6)) == 0.0
  assert float(jax.grad(value)(0.4, 0.6)) != 0.0


def test_the_loss_is_the_mean_of_both_parts_by_their_share():
  total, metrics = loss(network(0.4), network(0.6), share=0.25)
  parts = 0.25 * metrics['consistency'] + 0.75 * metrics['guidance']
  np.testing.assert_allclose(total, parts, rtol=1e-5)


def test_a_weight_multiplies_the_error_of_the_steps_of_its_count():
  """Those of one step: the loss is linear in the weight, and no other example is weighed."""
  of = lambda *weights: float(loss(network(0.4), network(0.6), counts=(1, 4), weights=weights)[0])
  weighed = [of(first, last) for first, last in ((1, 1), (3, 1), (5, 1), (1, 3))]
  np.testing.assert_allclose(weighed[0], of(), rtol=1e-6)
  np.testing.assert_allclose(weighed[2] - weighed[1], weighed[1] - weighed[0], rtol=1e-4)
  _, metrics = loss(network(0.4), network(0.6), counts=(1, 4))
  both = weighed[1] + weighed[3] - 2 * weighed[0]
  np.testing.assert_allclose(both, 2 * 0.5 * metrics['consistency'], rtol=1e-4)
  assert weighed[0] < min(weighed[1], weighed[3])
  assert of(3) == of(3, 3)
  message = (
    r'method[.]weights=.2, 1, 1. needs one number, or one for each of method[.]counts=.1, 4.'
  )
  with pytest.raises(UserError, match=message):
    of(2, 1, 1)


def test_of_a_batch_however_small_one_example_learns_a_step():
  _, metrics = loss(network(0.4), network(0.6), share=0.01)
  assert float(metrics['consistency']) > 0


def test_before_the_warm_up_no_example_learns_a_step():
  _, first = loss(network(0.4), network(0.6), share_warmup=10**9)
  assert float(first['consistency']) == 0.0
  _, later = loss(network(0.4), network(0.6), share_warmup=10, step=9)
  assert float(later['consistency']) > 0
