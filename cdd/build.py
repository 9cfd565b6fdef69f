"""The one file that reads a whole config: it names every registry and binds the parts of a run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdd import trees
from cdd.data import SOURCES, TASKS, pipeline, tokens
from cdd.diffusion import distances, predictors, times
from cdd.diffusion.samplers import SAMPLERS
from cdd.errors import UserError
from cdd.methods import METHODS, autoencoder
from cdd.models import lpips
from cdd.models.networks import Networks
from cdd.registry import bind, choose
from cdd.training import checkpoint, sharding, step as steps
from cdd.training import state as states
from cdd.training.optimizer import OPTIMIZERS
from cdd.training.targets import TARGETS
from cdd.types import Batch, Nets, Params

PACKAGED = Path(__file__).parent / 'assets'
FACTORIES = dict(  # What the settings of a method may name.
  sample_t=times.SAMPLE_T,
  predictor=predictors.PREDICTORS,
  d_eps=distances.DISTANCES,
  d_x=distances.DISTANCES,
)


def method(config, networks: Networks) -> Callable:
  """The loss of `config.method`: its nested specs bound first, then itself."""
  spec = dict(config.method)
  for field in FACTORIES.keys() & spec.keys():
    spec[field] = bind(FACTORIES[field], dict(spec[field]), field)
  schedule = networks.schedule
  return partial(
    bind(METHODS, spec, 'method'), schedule=schedule, num_steps=schedule.num_steps
  )


def diffusion_objective(config, networks: Networks) -> Callable:
  """Algorithm 1's loss (or another method's) as a function of trees and a raw batch."""
  loss = method(config, networks)

  def objective(params, target, frozen, raw, rng, step):
    online = {**frozen, **params}
    x = jax.lax.stop_gradient(networks.encode(frozen, raw['image']))
    c = networks.condition(online, raw)
    nets = Nets(
      online=networks.velocity(online),
      target=networks.velocity({**frozen, **target}),
      teacher=networks.velocity({**frozen, **trees.select(frozen, 'teacher')}),
    )
    return loss(nets, Batch(x, c), rng, step)

  return objective


def autoencoder_objective(config, networks: Networks) -> Callable:
  """The autoencoder's loss as a function of trees and a raw batch."""
  settings = {k: v for k, v in config.method.items() if k != 'name'}
  weights = lpips.load()
  perceptual = lambda a, b: lpips.lpips(weights, (a + 1) / 2, (b + 1) / 2)

  def objective(params, target, frozen, raw, rng, step):
    apply = partial(networks.vae, trees.select(params, 'vae'))
    return autoencoder.loss(
      partial(apply, 'encode'), partial(apply, 'decode'), perceptual, 2 * raw['image'] - 1, rng, **settings
    )

  return objective


class Experiment(NamedTuple):
  """A run, bound: what the training loop and the evaluation call.

  Attributes:
    networks: the networks as functions of a tree.
    frozen: weights that no step changes.
    initial: makes the state before the first update.
    abstract: the state's shapes with their shardings, for restoring.
    step: (state, batch) -> (state, metrics); donates the state.
    batches: the training batches, an iterator with get_state and set_state.
    held_out: count -> fixed evaluation batches.
    sample: (params, batch, rng, sampler, steps) -> images [b, H, W, 3] in [0, 1].
    export: (state, folder) writes the trained networks.
    preview: state -> (picture, score).
  """

  networks: Networks
  frozen: Params
  initial: Callable
  abstract: Any
  step: Callable
  batches: Any
  held_out: Callable
  sample: Callable
  export: Callable
  preview: Callable
  mesh: Any
