"""Owns the reading of a config: what it names is looked up and bound here, and nowhere below."""

import functools
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cdd.core import trees
from cdd.core.registry import choose
from cdd.core.types import Params
from cdd.data.prepared import Prepared
from cdd.diffusion import times
from cdd.diffusion.samplers import SAMPLERS
from cdd.models import casts
from cdd.models.adapters import ADAPTERS
from cdd.models.networks import Networks
from cdd.pretrained import diffusers, priors, trained
from cdd.runs import counting, prepare, streams
from cdd.runs.program import check, divide, program
from cdd.sampling.draw import draw
from cdd.training import sharding


class Experiment(NamedTuple):
  """A run, bound: what the training loop and the evaluation call.

  Attributes:
    networks: the networks as functions of a tree.
    prior: the pretrained pipeline; what is frozen of its U-Net as in `frozen`.
    frozen: weights that no step changes, in the dtype that they are used in (`casts.held`).
    initial: () -> the state before the first update.
    abstract: the state's shapes with their shardings, for restoring.
    step: (state, batch) -> (state, metrics); donates the state.
    work: (state, batch) -> how many operations a step is, on all devices together.
    batches: the training batches, an iterator with get_state, set_state and close.
    held_out: (count, batch_size) -> fixed evaluation batches.
    sample: (params, batch, seed, sampler=, steps=) -> images [b, H, W, 3] in [0, 1].
    reconstruct: (params, images) -> images, through the autoencoder.
    mesh: the devices.
  """

  networks: Networks
  prior: diffusers.Pretrained
  frozen: Params
  initial: Callable
  abstract: Any
  step: Callable
  work: Callable
  batches: Any
  held_out: Callable
  sample: Callable
  reconstruct: Callable
  mesh: Any


def experiment(config, workdir: Path) -> Experiment:
  """Everything that `config` describes; nothing is trained yet."""
  stream = streams.training(config, workdir)
  mesh = sharding.make_mesh(**config.mesh)
  texts = streams.captions(stream.source)
  prior = priors.load(config.prior, workdir, texts, place=placing(config, mesh))
  networks, added = priors.networks(config.model, prior, beside=priors.beside_of(config.method))
  train, frozen = divide(config, {**prior.params, **added})
  check(config, prior.configs, train)
  if config.initial:
    train = trained.load(config.initial, train)
  if isinstance(stream.source, Prepared):
    prepare.check(config, stream.source, networks, {**prior.params, **added})
  elif config.data.get('cache', 0):
    stream = streams.encoded(config.data, stream, networks, prior, workdir.parent / 'latents')
  tokenize = priors.reader(prior)
  empty = (stream.tokenize or tokenize)('')
  make = partial(program, config, train=train, mesh=mesh, finish=stream.finish, empty=empty)
  step = make(networks)
  said = sharding.whole({**train, **frozen}, mesh, config.sharding, trained=train)
  if said and jax.process_index() == 0:
    logging.warning(said)
  frozen = casts.held(frozen, prior.configs, config.model.dtype)
  frozen = jax.device_put(frozen, sharding.of_params(frozen, mesh, config.sharding))
  prior = prior._replace(params=released(config, prior.params, frozen))
  rng = jax.random.key(config.seed)
  return Experiment(
    networks=networks,
    prior=prior,
    frozen=frozen,
    initial=lambda: step.create(train),
    abstract=step.abstract,
    step=lambda state, batch: step.update(state, frozen, batch, rng),
    work=lambda state, batch: counting.of(
      make(without_remat(config, prior, networks)).update, state, frozen, batch, rng
    ),
    batches=streams.batches(config, stream, tokenize, mesh),
    held_out=streams.held_out(config, tokenize, workdir),
    sample=sampling(networks, frozen, mesh),
    reconstruct=reconstruction(networks, frozen, mesh),
    mesh=mesh,
  )


def without_remat(config, prior: diffusers.Pretrained, networks: Networks) -> Networks:
  """The same without `config.model.remat`: what is computed anew is no work of the model."""
  if not config.model.get('remat'):
    return networks
  spec = ConfigDict(config.model.to_dict() | dict(remat=False))
  return priors.networks(spec, prior, beside=priors.beside_of(config.method))[0]


def placing(config, mesh) -> Callable:
  """(path, array) -> where a parameter of the prior is put: the frozen U-Net's on the devices.

  Those are read tensor by tensor and never held twice, in the dtype that they are used in. An
  adapter that copies the U-Net copies it as it was read. What is trained is copied into the state,
  and the autoencoder and the text encoder may be run by one process alone (`streams.encoded`).
  """
  put, dtype = sharding.placer(mesh, config.sharding), jnp.dtype(config.model.dtype)
  adapter = ADAPTERS.get(config.model.adapter.name)
  copied = dtype != jnp.float32 and getattr(adapter, 'copies_unet_below', None) is not None

  def place(path: str, array: np.ndarray):
    if copied or not path.startswith('unet.'):
      return array
    frozen = trees.match(config.trainable, [path])[path] == 'freeze'
    return put(path, casts.held({path: array}, {}, dtype)[path]) if frozen else array

  return place


def released(config, params: Params, frozen: Params) -> Params:
  """The prior's parameters with a U-Net that was read, and can be again, as the step holds it."""
  read = 'unet' not in config.prior.get('new', {})
  held = {k: frozen[k] for k in frozen if read and k in params and k.startswith('unet.')}
  return {**params, **held}


def sampling(networks: Networks, frozen: Params, mesh) -> Callable:
  """`sample(params, batch, seed, sampler=, steps=)`; each sampler and step count compiles once."""

  @functools.cache
  def compiled(name: str, steps: int) -> Callable:
    settings = dict(
      sampler=choose(SAMPLERS, name, 'sampler')(),
      times=times.Timesteps().times(networks.schedule.num_steps, steps),
    )

    def run(params, frozen, raw, seed):
      z_rng, rng = jax.random.split(jax.random.key(seed))
      z = jax.random.normal(z_rng, networks.latent_shape(raw['image'].shape))
      return draw(networks, {**frozen, **params}, raw, z, rng, **settings)

    return sharding.jit(run, mesh, out_shardings=sharding.replicated(mesh))

  def sample(params, batch, seed, *, sampler, steps):
    return compiled(sampler, steps)(params, frozen, sharding.spread(batch, mesh), seed)

  return sample


def reconstruction(networks: Networks, frozen: Params, mesh) -> Callable:
  """(params, images) -> what the autoencoder makes of them, clipped to [0, 1]."""

  def run(params, frozen, images):
    tree = {**frozen, **params}
    return jnp.clip(networks.decode(tree, networks.encode(tree, images)), 0, 1)

  compiled = sharding.jit(run, mesh, out_shardings=sharding.replicated(mesh))
  return lambda params, images: compiled(params, frozen, sharding.spread(images, mesh))
