"""Owns the compiled step of a run: what is trained, the first state, and one update."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.registry import bind
from cdd.core.types import Params
from cdd.models.networks import Networks
from cdd.models.tiny_vae import TinyConfig
from cdd.runs import streams
from cdd.runs.objective import method_of, objective
from cdd.training import checkpoint, sharding
from cdd.training import state as states
from cdd.training import step as steps
from cdd.training.optimizer import OPTIMIZERS
from cdd.training.targets import TARGETS


class Program(NamedTuple):
  """A compiled training step.

  Attributes:
    create: the trainable parameters -> the state before the first update.
    abstract: the state's shapes with their shardings, for restoring.
    update: (state, frozen, batch, rng) -> (state, metrics); donates the state.
  """

  create: Callable
  abstract: Any
  update: Callable


def program(
  config,
  networks: Networks,
  train: Params,
  mesh,
  finish: Callable | None = None,
  empty: Mapping[str, Any] | None = None,
) -> Program:
  """The step of a config; nothing is compiled before it is called.

  Args:
    train: the trainable parameters, or their shapes alone (cdd.plan).
    finish: what the step first makes of a batch (`Task.finish`).
    empty: what a batch has of its captions, for one example without.
  """
  optimizer = bind(OPTIMIZERS, config.optimizer, 'optimizer')(steps=config.steps)
  follow = bind(TARGETS, config.target, 'target')
  has_copy = bool(jax.eval_shape(follow, train, train, 0))

  def create(params):
    return states.create(params, optimizer, has_copy=has_copy)

  shapes = jax.eval_shape(create, train)
  places = sharding.of_state(shapes, mesh, config.sharding)
  loss = objective(config, networks, empty)
  update = steps.make(loss, optimizer, follow, accumulate=config.accumulate)
  update = update if finish is None else after(sharding.over_devices(finish, mesh), update)
  return Program(
    jax.jit(create, out_shardings=places),
    checkpoint.abstract(shapes, places),
    sharding.jit(update, mesh, donate_argnums=0, out_shardings=(places, None)),
  )


def after(finish: Callable, step: Callable) -> Callable:
  """A step that first finishes its batch."""

  def update(state, frozen, batch, rng):
    return step(state, frozen, finish(batch), rng)

  return update


def check(config, configs: Mapping[str, Any], train: Params) -> None:
  """Refuses to train an autoencoder that the method does not, and to guide away from nothing.

  Args:
    configs: component of the prior -> its config.
    train: the trainable parameters.

  Raises:
    UserError: says what is trained, or guided, and why it cannot be.
  """
  name, vae = config.method.name, configs.get('vae')
  if config.method.get('guidance') and not streams.dropout(config.data).captions:
    raise UserError(
      f'method.guidance is {config.method.guidance}, and no caption is left out in training: '
      'the network has to learn what it is guided away from. Set data.caption_dropout, 0.1 say.'
    )
  if 'moments' not in method_of(config).networks:
    if path := next((path for path in train if path.startswith('vae.')), None):
      raise UserError(
        f'config.trainable trains {path}, and the method {name!r} leaves the autoencoder as it is; '
        "the method 'autoencoder' trains it."
      )
  elif isinstance(vae, TinyConfig):
    raise UserError(
      f'The method {name!r} trains an AutoencoderKL; config.prior has an AutoencoderTiny, whose '
      'latents have no variance to be trained. Give another autoencoder, config.prior.vae or '
      'config.prior.new.vae.'
    )


def divide(config, everything: Params) -> tuple[Params, Params]:
  """(trainable, frozen) by the patterns of `config.trainable`.

  A method that predicts with the pretrained network (Figure 5) gets a frozen copy of it besides,
  below 'teacher.'.
  """
  groups = trees.labelled(config.trainable, everything)
  train, frozen = groups['train'], groups['freeze']
  if dict(config.method.get('predictor', {})).get('name') == 'teacher':
    frozen = {**frozen, **trees.prefixed(train, 'teacher')}
  return train, frozen
