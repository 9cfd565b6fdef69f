"""Owns what a step minimises: a method's loss with the networks that it calls bound to a batch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from cdd.core import trees
from cdd.core.registry import bind, choose
from cdd.core.types import Array, Batch, Condition, Denoise, Nets, Params, Text
from cdd.methods import METHODS
from cdd.methods.method import Method
from cdd.models.networks import Networks


class Parts(NamedTuple):
  """What the networks of a loss are made of, within one update.

  Attributes:
    frozen, params, target: the frozen, the trainable and the target's parameters.
    c: the condition, or None where no network of the loss denoises.
  """

  networks: Networks
  frozen: Params
  params: Params
  target: Params
  c: Condition | None


def online(parts: Parts) -> Denoise:
  return parts.networks.denoiser({**parts.frozen, **parts.params}, parts.c)


def target(parts: Parts) -> Denoise | None:
  """θ⁻; None where it is θ itself."""
  if not parts.target:
    return None
  everything = {**parts.frozen, **parts.params, **parts.target}
  return parts.networks.denoiser(everything, parts.c)


def teacher(parts: Parts) -> Denoise | None:
  """The pretrained network; None where the run has no copy of it (`program.divide`)."""
  copy = trees.select(parts.frozen, 'teacher')
  return parts.networks.denoiser({**parts.frozen, **copy}, parts.c) if copy else None


def encode(parts: Parts) -> Callable[[Array], Array]:
  return partial(parts.networks.encode, parts.frozen)


def decode(parts: Parts) -> Callable[[Array], Array]:
  return partial(parts.networks.decode, parts.frozen)


def moments(parts: Parts) -> Callable[[Array], tuple[Array, Array]]:
  return partial(parts.networks.moments, {**parts.frozen, **parts.params})


def render(parts: Parts) -> Callable[[Array], Array]:
  return partial(parts.networks.render, {**parts.frozen, **parts.params})


# The fields of `Nets` that a method may name.
NETWORKS = dict(
  online=online,
  target=target,
  teacher=teacher,
  encode=encode,
  decode=decode,
  moments=moments,
  render=render,
)
# Those of them that need a condition.
DENOISERS = frozenset(('online', 'target', 'teacher'))


def method_of(config) -> Method:
  """The method of a config."""
  return choose(METHODS, config.method.name, 'method')


def negative(parts: Parts, empty: Mapping[str, Array]) -> Text:
  """The empty prompt for every example, read once.

  Args:
    empty: what a batch has of its captions, for one example without.
  """
  raw = {name: jnp.asarray(array)[None] for name, array in empty.items()}
  absent = dict(present=jnp.zeros(1), sizes=jnp.zeros((1, 6)))
  one = parts.networks.text({**parts.frozen, **parts.params}, raw | absent)
  text = parts.c.text
  states = jnp.broadcast_to(one.states, text.states.shape)
  pooled = None if text.pooled is None else jnp.broadcast_to(one.pooled, text.pooled.shape)
  return text._replace(states=states, pooled=pooled)


def objective(config, networks: Networks, empty: Mapping[str, Array] | None = None) -> Callable:
  """(params, target, frozen, batch, rng, step) -> (scalar, metrics).

  Args:
    empty: as in `negative`, for a method that guides.
  """
  method, schedule = method_of(config), networks.schedule
  loss = partial(bound_loss(config), schedule=schedule, num_steps=schedule.num_steps)
  # A method of the autoencoder reads neither latents nor a condition, also of a whole prior.
  guides = bool(config.method.get('guidance'))
  denoises = not DENOISERS.isdisjoint(method.networks)

  def run(params, target, frozen, raw: dict[str, Array], rng: Array, step: Array):
    c = networks.condition({**frozen, **params}, raw) if denoises else None
    parts = Parts(networks, frozen, params, target, c)
    nets = Nets(**{name: NETWORKS[name](parts) for name in method.networks})
    # θ⁻ that is θ itself is one network, so that what both make of the condition is made once.
    nets = nets if nets.target else nets._replace(target=nets.online)
    x = networks.latents(frozen, raw, 'image') if denoises else None
    images = 2 * raw['image'] - 1 if 'image' in raw else None
    text = negative(parts, empty) if guides and empty else None
    return loss(nets, Batch(x, images, text), rng, step)

  return run


def bound_loss(config) -> Callable:
  """The loss of `config.method`, with its settings bound.

  Raises:
    UserError: an unknown method, setting or name.
  """
  method, spec = method_of(config), dict(config.method)
  for setting in method.settings.keys() & spec.keys():
    spec[setting] = bind(method.settings[setting], spec[setting], setting)
  name = spec.pop('name')
  return bind({name: method.loss}, dict(spec, name=name), 'method')
