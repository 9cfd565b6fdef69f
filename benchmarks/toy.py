"""The method on a two-dimensional domain, in minutes: python -m benchmarks.toy.

Four conditions, three modes each; a small MLP is pretrained without the condition and then trained
by each recipe for the same number of updates. Printed: the energy distance to the truth (x 1000,
mean over conditions) at 1, 2, 4 and 8 steps. docs/findings.md says what it shows.
"""

import argparse
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cdd.core.types import Batch, Nets
from cdd.diffusion import distances, predictors, schedules, times
from cdd.diffusion.guidance import classifier_free
from cdd.diffusion.process import decompose
from cdd.diffusion.samplers import SAMPLERS, loop
from cdd.methods import conditional, finetune, step_aware

SCHEDULE = schedules.scaled_linear(beta_end=0.016)  # The packaged prior's.
SETTINGS = dict(schedule=SCHEDULE, num_steps=SCHEDULE.num_steps)
WIDTH, UPDATES, BATCH, CONDITIONS, MODES = 96, 4000, 256, 4, 3
RATES = jnp.exp(jnp.linspace(0, 4, 8))

FINETUNE = functools.partial(finetune.loss, sample_t=times.per_example, **SETTINGS)


def recipe(**settings):
  """Algorithm 1 with some settings changed."""
  common = dict(
    sample_t=times.per_example,
    predictor=predictors.ddim,
    d_eps=distances.squared_l2,
    d_x=distances.squared_l2,
  )
  return functools.partial(conditional.loss, **SETTINGS, **(common | settings))


def asked_at_t(loss, dt: int):
  """The same loss with the target's ε taken at (ẑ_s, t), as Algorithm 1 prints it."""

  def changed(nets, *rest):
    def target(z_s, s, _):
      at_s, at_t = SCHEDULE(s), SCHEDULE(s + dt)
      eps = decompose(z_s, nets.target(z_s, s + dt, None), at_t).eps
      return (eps - at_s.sigma * z_s) / at_s.alpha  # The v that has this ε at s.

    return loss(nets._replace(target=target), *rest)

  return changed


def step_recipe(**settings):
  """Step-aware distillation with some settings changed."""
  return functools.partial(step_aware.loss, sample_t=times.per_example, **SETTINGS, **settings)


def window(dt: int, length: int) -> dict:
  """Both terms as errors of v, ρ such that a prediction is carried over `length` steps."""
  return dict(dt=dt, weighting='velocity', x_weight=dt / length)


RECIPES = {
  'paper: PREv, dt 1, shared t': recipe(predictor=predictors.prev, dt=1, sample_t=times.shared),
  'x regression alone': recipe(eps_weight=0.0),
  'ddim, dt 20, unweighted': recipe(dt=20),
  'PREv, dt 20, velocity': recipe(predictor=predictors.prev, dt=20, weighting='velocity'),
  'PREv, dt 125, velocity': recipe(predictor=predictors.prev, dt=125, weighting='velocity'),
  'ddim, dt 20, velocity, window 20': recipe(**window(20, 20)),
  'ddim, dt 50, velocity, window 50': recipe(**window(50, 50)),
  'ddim, dt 20, velocity, window 80': recipe(**window(20, 80)),
  'ddim, dt 10, velocity, window 100': recipe(**window(10, 100)),
  'ddim, dt 50, velocity, window 100': recipe(**window(50, 100)),
  'ddim, dt 50, velocity, window 125': recipe(**window(50, 125)),
  'ddim, dt 125, velocity, window 125': recipe(**window(125, 125)),
  'ddim, dt 50, window 125, s >= 50': recipe(**window(50, 125), s_min=50),
  'ddim, dt 125, window 125, s >= 125': recipe(**window(125, 125), s_min=125),
  'ddim, dt 125, window 250, s >= 125': recipe(**window(125, 250), s_min=125),
  'the same, t on the grid': recipe(**window(125, 250), s_min=125, sample_t=times.grid),
  'ddim, dt 50, window 125, target at t': asked_at_t(recipe(**window(50, 125)), 50),
  'ddim, dt 125, window 125, target at t': asked_at_t(recipe(**window(125, 125)), 125),
  'ddim, dt 50, velocity, window 200': recipe(**window(50, 200)),
  'ddim, dt 20, velocity, window 400': recipe(**window(20, 400)),
}


def initial(key) -> dict:
  shapes = dict(a=(2 + CONDITIONS + 16, WIDTH), b=(WIDTH, WIDTH), c=(WIDTH, WIDTH), d=(WIDTH, 2))
  keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
  draw = {name: jax.random.normal(keys[name], shape) for name, shape in shapes.items()}
  kernels = {name: leaf / np.sqrt(leaf.shape[0]) for name, leaf in draw.items()}
  biases = {f'{name}_bias': jnp.zeros((WIDTH,)) for name in 'abc'}
  return kernels | biases | dict(step=jnp.zeros((16, WIDTH)), scale=jnp.zeros((16, WIDTH)))


class Network(NamedTuple):
  """`Denoise` by the MLP: z [b, 1, 1, 2], the condition c [b, 4] bound."""

  params: dict
  c: jax.Array
  scale: jax.Array | None = None

  def __call__(self, z, t, s):
    count = z.shape[0]
    layer = lambda name, h: jax.nn.silu(h @ self.params[name] + self.params[f'{name}_bias'][None])
    inputs = jnp.concatenate([z.reshape(count, 2), self.c, waves(t)], axis=-1)
    h = inputs @ self.params['a'] + self.params['a_bias'][None]
    if s is not None:  # No step is zeros, as in the U-Net, and there no scale is given either.
      beside = waves(t - s) @ self.params['step']
      if self.scale is not None:
        beside = beside + waves(100 * self.scale) @ self.params['scale']
      h = h + jnp.where((t - s).reshape(count, 1) > 0, beside, 0)
    h = jax.nn.silu(h)
    h = h + layer('b', h)
    h = h + layer('c', h)
    return (h @ self.params['d']).reshape(count, 1, 1, 2)

  def rows(self, rows):
    return self._replace(c=self.c[rows])

  def told(self, scale):
    return self._replace(scale=scale)

  def guided(self, scale, negative):
    def denoise(z, t, s):
      conditional, unconditional = self(z, t, s), self._replace(c=negative)(z, t, s)
      return classifier_free(conditional=conditional, unconditional=unconditional, scale=scale)

    return denoise


def waves(t):
  """Eight sines and eight cosines of times or steps, [b, 16]."""
  angles = t.reshape(-1, 1) / 1000 * RATES[None] * 3
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def data(key, count: int, *, conditional: bool):
  keys = jax.random.split(key, 3)
  which = jax.random.randint(keys[0], (count,), 0, CONDITIONS)
  mode = jax.random.randint(keys[1], (count,), 0, MODES)
  angle, radius = which * np.pi / 2 + mode * 0.73, 0.72 + 0.6 * mode
  x = jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=-1)
  x = x + 0.07 * jax.random.normal(keys[2], x.shape)
  return x.reshape(count, 1, 1, 2), jax.nn.one_hot(which, CONDITIONS) * conditional


def train(
  loss, params, *, updates: int, rate: float, conditional=True, decay=0.95, seed=0, dropout=0.0
):
  """Parameters after `updates` of Adam, averaged over about the last 200.

  Args:
    decay: γ.
    dropout: the share of the examples without their condition.
  """
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(rate, 0.0, updates), b2=0.99)
  )
  average = lambda decay, old, new: jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)

  def update(carry, key):
    params, target, smooth, opt = carry
    data_key, loss_key = jax.random.split(key)
    x, c = data(data_key, BATCH, conditional=conditional)
    c = c * (jax.random.uniform(jax.random.fold_in(loss_key, 9), (BATCH, 1)) >= dropout)
    frozen = Network(target, c)
    nets = lambda params: Nets(online=Network(params, c), target=frozen, teacher=frozen)
    value = lambda params: loss(nets(params), Batch(x, negative=0 * c), loss_key, jnp.int32(0))[0]
    changes, opt = optimizer.update(jax.grad(value)(params), opt, params)
    params = optax.apply_updates(params, changes)
    return (params, average(decay, target, params), average(0.995, smooth, params), opt), None

  keys = jax.random.split(jax.random.key(2 * seed + 1), updates)
  start = (params, params, params, optimizer.init(params))
  return jax.jit(lambda start: jax.lax.scan(update, start, keys)[0][2])(start)


@functools.partial(jax.jit, static_argnames=('sampler', 'steps', 'scale'))
def sample(params, *, sampler: str, steps: int, scale: float | None = None):
  """What is drawn, the truth, and the conditions.

  Args:
    scale: of guidance: given to a sampler of few steps, by two predictions in any other.
  """
  x, c = data(jax.random.key(99), 3000, conditional=True)
  z = jax.random.normal(jax.random.key(5), x.shape)
  visited = dict(schedule=SCHEDULE, times=times.Timesteps().times(SCHEDULE.num_steps, steps))
  network = Network(params, c)
  if scale is not None:
    few = SAMPLERS[sampler]().few
    told = network.told(jnp.full((3000, 1, 1, 1), scale))
    network = told if few else network.guided(scale, 0 * c)
  out = loop.run(SAMPLERS[sampler](), network, z, jax.random.key(6), **visited)
  return out[:, 0, 0], x[:, 0, 0], c.argmax(-1)


def energy(a, b) -> float:
  """2 E|a − b| − E|a − a'| − E|b − b'| (Székely & Rizzo)."""
  between = lambda a, b: np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)).mean()
  return 2 * between(a, b) - between(a, a) - between(b, b)


def score(params, *, sampler: str, steps: int) -> float:
  return by_condition(*sample(params, sampler=sampler, steps=steps))


def by_condition(drawn, real, which) -> float:
  """The energy distance x 1000, the mean over conditions."""
  drawn, real, which = map(np.asarray, (drawn, real, which))
  return 1000 * np.mean([energy(drawn[which == i], real[which == i]) for i in range(CONDITIONS)])


def row(label: str, params, sampler: str, counts) -> None:
  scores = '  '.join(f'{n}: {score(params, sampler=sampler, steps=n):6.1f}' for n in counts)
  print(f'{label:<40} {scores}', flush=True)


def kappa(dt: int, levels: tuple[int, ...]) -> None:
  """By how much d_ε enlarges what x̂_s says over x̂_t: (σ_t / α_t) / (σ_s / α_s)."""
  ratio = SCHEDULE.sigmas / SCHEDULE.alphas
  print(f'κ of Δt {dt}:', ', '.join(f'{ratio[t] / ratio[t - dt]:.2f} at {t}' for t in levels))


def step_aware_rows(prior, seed: int) -> None:
  """The network is given its step: the share of the batch that learns steps, and the sizes."""
  for share in (0.25, 0.5, 0.75):
    params = train(step_recipe(share=share), prior, updates=UPDATES, rate=2e-3, seed=seed)
    row(f'step-aware, share {share:g}', params, 'consistency', (1, 2, 4, 8))
    row('  no step given', params, 'ddim', (50,))
  finer, every = (1, 2, 4, 8, 16), (1, 2, 3, 4, 5, 6, 7, 8)
  for label, settings in {'γ 0': dict(decay=0.0), 'γ 0.99': dict(decay=0.99)}.items():
    params = train(step_recipe(), prior, updates=UPDATES, rate=2e-3, seed=seed, **settings)
    row(f'step-aware, share 0.5, {label}', params, 'consistency', (1, 2, 4, 8))
  params = train(step_recipe(counts=finer), prior, updates=UPDATES, rate=2e-3, seed=seed)
  row('step-aware, share 0.5, up to 16 steps', params, 'consistency', (1, 2, 4, 8, 16))
  params = train(step_recipe(counts=every), prior, updates=UPDATES, rate=2e-3, seed=seed)
  row('step-aware, share 0.5, any of 1 to 8', params, 'consistency', every)


def weighted_rows(prior, seed: int) -> None:
  """The errors of steps, whose targets have no noise, count for more than those of the data."""
  flat = {weight: (weight,) * 4 for weight in (1, 2, 4, 8, 16)}
  tried = [(weights, 0.95, 0.5) for weights in (*flat.values(), (1, 2, 4, 8), (8, 4, 2, 1))]
  tried += [(flat[8], 0.99, 0.5), (flat[4], 0.0, 0.5), (flat[8], 0.0, 0.5), (flat[8], 0.95, 0.25)]
  for weights, decay, share in tried:
    recipe = step_recipe(weights=weights, share=share)
    params = train(recipe, prior, updates=UPDATES, rate=2e-3, seed=seed, decay=decay)
    same = weights[0] if len({*weights}) == 1 else weights
    row(f'weight {same}, γ {decay:g}, share {share:g}', params, 'consistency', (1, 2, 4, 8))
    row('  no step given', params, 'ddim', (50,))


def guided_rows(prior, seed: int) -> None:
  """Guided steps are learnt: the distance to what the undistilled model draws in 50 guided ones."""
  settings = dict(updates=UPDATES, rate=2e-3, seed=seed, dropout=0.1)
  tuned = train(FINETUNE, prior, **settings)
  guided_row('finetune (DDIM)', tuned, tuned, 'ddim', (1.0, 1.5, 2.0))
  for least, most in ((2.0, 2.0), (1.0, 2.0)):
    params = train(step_recipe(guidance=(least, most)), prior, **settings)
    scales = (1.0, 1.5, 2.0) if least < most else (least,)
    guided_row(f'step-aware, {least:g} to {most:g}', params, tuned, 'consistency', scales)


def guided_row(label: str, params, tuned, sampler: str, scales) -> None:
  for scale in scales:
    truth, _, which = sample(tuned, sampler='ddim', steps=50, scale=scale)
    drawn = [sample(params, sampler=sampler, steps=n, scale=scale)[0] for n in (1, 2, 4, 8)]
    found = zip((1, 2, 4, 8), (by_condition(each, truth, which) for each in drawn), strict=True)
    print(f'{label + f", guided by {scale:g}":<40} ', end='')
    print('  '.join(f'{n}: {distance:6.1f}' for n, distance in found), flush=True)


def paper_rows(prior, seed: int) -> None:
  """Algorithm 1 with what the paper leaves open set one way or another."""
  for label, loss in RECIPES.items():
    params = train(loss, prior, updates=UPDATES, rate=2e-3, seed=seed)
    row(label, params, 'consistency', (1, 2, 4, 8))
  for decay in (0.0, 0.99):
    params = train(
      recipe(**window(125, 125)), prior, updates=UPDATES, rate=2e-3, decay=decay, seed=seed
    )
    row(f'ddim, dt 125, window 125, γ {decay:g}', params, 'consistency', (1, 2, 4, 8))


ROWS = dict(paper=paper_rows, step_aware=step_aware_rows, weights=weighted_rows, guided=guided_rows)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seeds', type=int, default=1)
  parser.add_argument('--only', choices=tuple(ROWS))
  arguments = parser.parse_args()
  kappa(125, (126, 150, 200, 250, 500, 750, 1000))
  for seed in range(arguments.seeds):
    print(f'seed {seed}', flush=True)
    start = initial(jax.random.key(seed))
    prior = train(FINETUNE, start, updates=6000, rate=3e-3, conditional=False, seed=seed)
    tuned = train(FINETUNE, prior, updates=UPDATES, rate=2e-3, seed=seed)
    row('finetune (DDIM)', tuned, 'ddim', (1, 2, 4, 8, 50))
    for name, rows in ROWS.items():
      if arguments.only in (None, name):
        rows(prior, seed)


if __name__ == '__main__':
  main()
