"""The method on a two-dimensional domain, in minutes: python -m benchmarks.toy.

Four conditions, three modes each; a small MLP is pretrained without the condition and then trained
by each recipe for the same number of updates. Printed: the energy distance to the truth (x 1000,
mean over conditions) at 1, 2, 4 and 8 steps. docs/findings.md says what it shows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cdd.core.types import Batch, Nets
from cdd.diffusion import distances, predictors, schedules, times
from cdd.diffusion.process import decompose
from cdd.diffusion.samplers import SAMPLERS, loop
from cdd.methods import conditional, finetune

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
  return kernels | {f'{name}_bias': jnp.zeros((WIDTH,)) for name in 'abc'}


def network(params, c):
  """denoise(z [b, 1, 1, 2], t, s) -> v of the condition c [b, 4]; s is not read."""

  def denoise(z, t, s):
    count = z.shape[0]
    waves = t.reshape(count, 1) / 1000 * RATES[None] * 3
    h = jnp.concatenate([z.reshape(count, 2), c, jnp.sin(waves), jnp.cos(waves)], axis=-1)
    layer = lambda name, h: jax.nn.silu(h @ params[name] + params[f'{name}_bias'][None])
    h = layer('a', h)
    h = h + layer('b', h)
    h = h + layer('c', h)
    return (h @ params['d']).reshape(count, 1, 1, 2)

  return denoise


def data(key, count: int, *, conditional: bool):
  keys = jax.random.split(key, 3)
  which = jax.random.randint(keys[0], (count,), 0, CONDITIONS)
  mode = jax.random.randint(keys[1], (count,), 0, MODES)
  angle, radius = which * np.pi / 2 + mode * 0.73, 0.72 + 0.6 * mode
  x = jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=-1)
  x = x + 0.07 * jax.random.normal(keys[2], x.shape)
  return x.reshape(count, 1, 1, 2), jax.nn.one_hot(which, CONDITIONS) * conditional


def train(loss, params, *, updates: int, rate: float, conditional: bool = True, decay=0.95):
  """Parameters after `updates` of Adam, averaged over about the last 200; `decay` is γ."""
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(rate, 0.0, updates), b2=0.99)
  )
  average = lambda decay, old, new: jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)

  def update(carry, key):
    params, target, smooth, opt = carry
    data_key, loss_key = jax.random.split(key)
    x, c = data(data_key, BATCH, conditional=conditional)
    nets = lambda params: Nets(network(params, c), network(target, c), network(target, c))
    value = lambda params: loss(nets(params), Batch(x), loss_key, jnp.int32(0))[0]
    changes, opt = optimizer.update(jax.grad(value)(params), opt, params)
    params = optax.apply_updates(params, changes)
    return (params, average(decay, target, params), average(0.995, smooth, params), opt), None

  keys = jax.random.split(jax.random.key(1), updates)
  start = (params, params, params, optimizer.init(params))
  return jax.jit(lambda start: jax.lax.scan(update, start, keys)[0][2])(start)


@functools.partial(jax.jit, static_argnames=('sampler', 'steps'))
def sample(params, *, sampler: str, steps: int):
  x, c = data(jax.random.key(99), 3000, conditional=True)
  z = jax.random.normal(jax.random.key(5), x.shape)
  visited = times.Timesteps().times(SCHEDULE.num_steps, steps)
  settings = dict(schedule=SCHEDULE, times=visited)
  out = loop.run(SAMPLERS[sampler](), network(params, c), z, jax.random.key(6), **settings)
  return out[:, 0, 0], x[:, 0, 0], c.argmax(-1)


def energy(a, b) -> float:
  """2 E|a − b| − E|a − a'| − E|b − b'| (Székely & Rizzo)."""
  between = lambda a, b: np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)).mean()
  return 2 * between(a, b) - between(a, a) - between(b, b)


def score(params, *, sampler: str, steps: int) -> float:
  drawn, real, which = map(np.asarray, sample(params, sampler=sampler, steps=steps))
  return 1000 * np.mean([energy(drawn[which == i], real[which == i]) for i in range(CONDITIONS)])


def row(label: str, params, sampler: str, counts) -> None:
  scores = '  '.join(f'{n}: {score(params, sampler=sampler, steps=n):6.1f}' for n in counts)
  print(f'{label:<40} {scores}', flush=True)


def kappa(dt: int, levels: tuple[int, ...]) -> None:
  """By how much d_ε enlarges what x̂_s says over x̂_t: (σ_t / α_t) / (σ_s / α_s)."""
  ratio = SCHEDULE.table.sigma / SCHEDULE.table.alpha
  print(f'κ of Δt {dt}:', ', '.join(f'{ratio[t] / ratio[t - dt]:.2f} at {t}' for t in levels))


def main() -> None:
  kappa(125, (126, 150, 200, 250, 500, 750, 1000))
  start = initial(jax.random.key(0))
  prior = train(FINETUNE, start, updates=6000, rate=3e-3, conditional=False)
  tuned = train(FINETUNE, prior, updates=UPDATES, rate=2e-3)
  row('finetune (DDIM)', tuned, 'ddim', (1, 2, 4, 8, 50))
  for label, loss in RECIPES.items():
    row(label, train(loss, prior, updates=UPDATES, rate=2e-3), 'consistency', (1, 2, 4, 8))
  for decay in (0.0, 0.99):
    params = train(recipe(**window(125, 125)), prior, updates=UPDATES, rate=2e-3, decay=decay)
    row(f'ddim, dt 125, window 125, γ {decay:g}', params, 'consistency', (1, 2, 4, 8))


if __name__ == '__main__':
  main()
