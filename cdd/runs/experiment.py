"""The one file that reads a whole config: it names every registry and binds the parts of a run."""

import functools
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from cdd.core import trees
from cdd.pretrained import priors
from cdd.data import SOURCES, TASKS, cache as latents, pipeline, tokens
from cdd.diffusion import distances, predictors, schedules, times
from cdd.diffusion.samplers import SAMPLERS
from cdd.methods import METHODS, autoencoder
from cdd.metrics import lpips
from cdd.models import functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS
from cdd.models.networks import Networks
from cdd.pretrained import adapter_folders as adapters, diffusers, trained
from cdd.models.unet import rematerialized
from cdd.core.registry import bind, choose
from cdd.training import checkpoint, sharding
from cdd.training import state as states
from cdd.training import step as steps
from cdd.training.optimizer import OPTIMIZERS
from cdd.training.targets import TARGETS
from cdd.core.types import Batch, Nets, Params

# What the settings of a method may name.
FACTORIES = dict(
  sample_t=times.SAMPLE_T,
  predictor=predictors.PREDICTORS,
  d_eps=distances.DISTANCES,
  d_x=dict(distances.DISTANCES, lpips=distances.per_example(lpips.of_images)),
)


class Experiment(NamedTuple):
  """A run, bound: what the training loop and the evaluation call.

  Attributes:
    networks: the networks as functions of a tree.
    prior: the pretrained pipeline.
    frozen: weights that no step changes.
    initial: () -> the state before the first update.
    abstract: the state's shapes with their shardings, for restoring.
    step: (state, batch) -> (state, metrics); donates the state.
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
  batches: Any
  held_out: Callable
  sample: Callable
  reconstruct: Callable
  mesh: Any


def experiment(config, workdir: Path) -> Experiment:
  """Everything that `config` describes; nothing is trained yet."""
  task = bind(TASKS, config.data.task, 'task')()
  source = bind(SOURCES, config.data.source, 'source')()
  captions = (source[index]['caption'] for index in range(min(4000, len(source))))
  mesh = sharding.make_mesh(**config.mesh)
  prior = priors.load(config.prior, workdir, captions, place=placing(config, mesh))
  networks, adapter = adapted_networks(config.model, prior)
  train, frozen = divide(config, {**prior.params, **adapter})
  if config.initial:
    train = trained.load(config.initial, train)
  create, abstract, update = program(config, networks, train, mesh)
  frozen = jax.device_put(frozen, sharding.of_params(frozen, mesh))
  tokenize = tokens.reader(prior.tokenizers)
  stream = (source, task)
  if config.data.get('cache', 0):
    stream = encoded(config.data, source, task, networks, prior, workdir.parent / 'latents')
  rng = jax.random.key(config.seed)
  return Experiment(
    networks=networks,
    prior=prior,
    frozen=frozen,
    initial=lambda: create(train),
    abstract=abstract,
    step=lambda state, batch: update(state, frozen, batch, rng),
    batches=batches(config, *stream, tokenize),
    held_out=partial(held_out, config, task, tokenize),
    sample=sampling(networks, frozen),
    reconstruct=jax.jit(reconstruction(networks, frozen)),
    mesh=mesh,
  )


def placing(config, mesh) -> Callable:
  """(path, array) -> where a parameter of the prior stays: the frozen U-Net's on the devices.

  Those are read tensor by tensor and never held twice. What is trained is copied into the state,
  and the autoencoder and the text encoder may be run by one process alone (`encoded`).
  """
  put = sharding.placer(mesh)

  def place(path: str, array: np.ndarray):
    held = path.startswith('unet.') and trees.match(config.trainable, [path])[path] == 'freeze'
    return put(path, array) if held else array

  return place


def program(config, networks: Networks, train: Params, mesh) -> tuple[Callable, Any, Callable]:
  """(create, abstract, update): the first state, its shapes with shardings, one jitted step.

  Args:
    train: the trainable parameters, or their shapes alone (cdd.plan).
  """
  optimizer = bind(OPTIMIZERS, config.optimizer, 'optimizer')(steps=config.steps)
  follow = bind(TARGETS, config.target, 'target')
  apart = bool(jax.eval_shape(follow, train, train, 0))
  create = lambda params: states.create(params, optimizer, apart=apart)
  shapes = jax.eval_shape(create, train)
  places = sharding.of_state(shapes, mesh)
  update = steps.make(objective(config, networks), optimizer, follow, accumulate=config.accumulate)
  return (
    jax.jit(create, out_shardings=places),
    checkpoint.abstract(shapes, places),
    jax.jit(update, donate_argnums=0, out_shardings=(places, None)),
  )


def adapted_networks(spec, prior: diffusers.Pretrained) -> tuple[Networks, Params]:
  """The networks of a prior with the adapter of `config.model`, and the parameters it brings."""
  dtype = jnp.dtype(spec.dtype)
  adapter = choose(ADAPTERS, spec.adapter['name'], 'adapter')
  configs, brought, apply = dict(prior.configs), {}, {}
  if 'unet' in configs:
    joint, configs['unet'], brought = joined(spec.adapter, configs['unet'], prior.params, dtype)
    kept = rematerialized if spec.get('remat', False) else lambda whole: whole
    module = nnx.eval_shape(lambda: kept(joint()))
    apply['unet'], adapter = functional.bind(module)[0], module.adapter
  for component in configs.keys() - apply.keys():
    make = partial(diffusers.make, component, configs[component], dtype=dtype)
    apply[component] = functional.abstract(make)[0]
  vae = configs['vae']
  networks = Networks(
    adapted=apply.get('unet'),
    vae=apply['vae'],
    text_encoder=apply.get('text_encoder'),
    text_encoder_2=apply.get('text_encoder_2'),
    schedule=schedules.from_diffusers(prior.scheduler),
    prediction=prior.scheduler.get('prediction_type', 'epsilon'),
    scale=vae.scaling_factor,
    shift=vae.shift_factor or 0.0,
    factor=vae.factor,
    channels=vae.latent_channels,
    condition_space=adapter.condition_space,
  )
  return networks, brought


def joined(settings, unet, params: Params, dtype) -> tuple[Callable, Any, Params]:
  """The adapted U-Net of `config.model.adapter`.

  Args:
    settings: the adapter's name, and its settings or the `path` of its weights.
    unet, params: the config of the prior's U-Net, and the prior.

  Returns:
    A function that makes the module; the config of its U-Net, which may have become wider; and the
    parameters that are not the prior's, 'adapter.*' and what replaces some of 'unet.*'.
  """
  plug, loaded = adapters.start(settings, unet)
  kind = ADAPTERS[plug.name]
  make = lambda: kind(plug.unet, dtype=dtype, rngs=functional.Keys(1), **plug.settings)
  if not hasattr(kind, 'prepare'):
    brought = trees.prefixed(loaded, 'adapter') if loaded else initial_adapter(kind, make, params)
  elif loaded:
    unet, brought = plug.unet, trees.prefixed(loaded, 'unet')
  else:
    unet, prepared = kind.prepare(unet, params)
    brought = {path: leaf for path, leaf in prepared.items() if leaf is not params.get(path)}
  module = lambda: Adapted(diffusers.make('unet', unet, dtype=dtype), make())
  return module, unet, brought


def initial_adapter(kind, plug: Callable, params: Params) -> Params:
  """An adapter's first parameters: copies of the U-Net's encoder (§4.1), the rest as it is made."""
  copied = {}
  if kind.copies_unet_below is not None:
    start = len(kind.copies_unet_below) + bool(kind.copies_unet_below)
    twins = {path: 'unet.' + path[start:] for path in functional.abstract(plug)[1]}
    copied = {path: params[twin] for path, twin in twins.items() if twin in params}
  made = lambda: {k: leaf for k, leaf in functional.bind(plug())[1].items() if k not in copied}
  return trees.prefixed(copied | jax.tree.map(np.asarray, jax.jit(made)()), 'adapter')


def divide(config, everything: Params) -> tuple[Params, Params]:
  """(trainable, frozen) by the patterns of `config.trainable`; copies, as the step donates them."""
  labels = trees.match(config.trainable, everything)
  for label in set(labels.values()):
    choose(dict(train=0, freeze=0), label, 'label of config.trainable')
  groups = dict(train={}, freeze={}) | trees.split(everything, labels)
  frozen = groups['freeze']
  if dict(config.method.get('predictor', {})).get('name') == 'teacher':
    frozen = {**frozen, **trees.prefixed(groups['train'], 'teacher')}
  return groups['train'], frozen


def objective(config, networks: Networks) -> Callable:
  """What a step minimises, as a function of trees and a raw batch."""
  make = autoencoder_objective if config.method.name == 'autoencoder' else diffusion_objective
  return make(config, networks)


def diffusion_objective(config, networks: Networks) -> Callable:
  """Algorithm 1's loss, or another method's."""
  spec = dict(config.method)
  for field in FACTORIES.keys() & spec.keys():
    spec[field] = bind(FACTORIES[field], spec[field], field)
  schedule = networks.schedule
  loss = partial(bind(METHODS, spec, 'method'), schedule=schedule, num_steps=schedule.num_steps)

  def run(params, target, frozen, raw, rng, step):
    online = {**frozen, **params}
    x = networks.latents(frozen, raw, 'image')
    c = networks.condition(online, raw)
    itself = networks.bound(online, c)
    nets = Nets(
      online=itself,
      target=networks.velocity({**online, **target}) if target else itself,
      teacher=networks.velocity({**frozen, **trees.select(frozen, 'teacher')}),
      encode=partial(networks.encode, frozen),
      decode=partial(networks.decode, frozen),
    )
    return loss(nets, Batch(x, c), rng, step)

  return run


def autoencoder_objective(config, networks: Networks) -> Callable:
  """The autoencoder's own loss."""
  settings = {name: value for name, value in config.method.items() if name != 'name'}
  perceptual = lambda a, b: lpips.of_images((a + 1) / 2, (b + 1) / 2)

  def run(params, target, frozen, raw, rng, step):
    vae = partial(networks.vae, trees.select({**frozen, **params}, 'vae'))
    images = 2 * raw['image'] - 1
    return autoencoder.loss(
      partial(vae, 'encode'), partial(vae, 'decode'), perceptual, images, rng, **settings
    )

  return run


def encoded(settings, source, task, networks: Networks, prior, folder: Path) -> tuple:
  """(source, task) of the first `settings.cache` examples, encoded once and kept below `folder`.

  Runs with the same data and the same autoencoder share what was encoded; process 0 encodes.
  """
  params = trees.prefixed(trees.select(prior.params, 'vae'), 'vae')
  kept = dict(settings.to_dict(), space=networks.condition_space)
  kept = {name: kept[name] for name in ('source', 'task', 'cache', 'space')}
  scale = dict(scale=networks.scale, shift=networks.shift)
  digest = hashlib.sha256(json.dumps(kept | scale, sort_keys=True).encode())
  for path in sorted(params):
    digest.update(params[path].tobytes())
  folder = folder / digest.hexdigest()[:16]
  encode = partial(jax.jit(networks.encode), params)
  whole = lambda images: np.round(255 * images).astype(np.uint8)
  of_condition = dict(
    latent=dict(condition=encode),
    unscaled_latent=dict(condition=encode),
    pixel=dict(condition=whole),
    none={},
  )
  encoders = dict(image=encode, **of_condition[networks.condition_space])
  if jax.process_index() == 0 and not folder.exists():
    latents.write(
      folder,
      source,
      task,
      encoders,
      count=settings.cache,
      threads=settings.threads,
      workers=settings.workers,
    )
  multihost_utils.sync_global_devices('latents')
  return latents.Latents(folder), lambda example, rng: example


def batches(config, source, task, tokenize) -> pipeline.Batches:
  """The training batches of this process."""
  return pipeline.Batches(
    source,
    task,
    tokenize,
    batch_size=config.data.batch_size,
    seed=config.seed,
    caption_dropout=config.data.caption_dropout,
    threads=config.data.threads,
    workers=config.data.workers,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def held_out(config, task, tokenize, count: int, batch_size: int) -> list[dict]:
  """The first held-out examples in fixed batches, the same for every seed of the run."""
  source = bind(SOURCES, config.data.held_out, 'source')()
  return pipeline.held_out(source, task, tokenize, batch_size=batch_size, seed=0, count=count)


def sampling(networks: Networks, frozen: Params) -> Callable:
  """`sample(params, batch, seed, sampler=, steps=)`; each sampler and step count compiles once."""

  @functools.cache
  def compiled(sampler: str, count: int) -> Callable:
    walk = choose(SAMPLERS, sampler, 'sampler')
    grid = times.Walk().times(networks.schedule.num_steps, count)

    def run(params, frozen, raw, seed):
      tree = {**frozen, **params}
      z_rng, rng = jax.random.split(jax.random.key(seed))
      z = jax.random.normal(z_rng, networks.latent_shape(raw['image'].shape))
      denoise = networks.denoiser(tree, networks.condition(tree, raw))
      x = walk(denoise, z, rng, schedule=networks.schedule, times=grid)
      return jnp.clip(networks.decode(tree, x), 0, 1)

    return jax.jit(run)

  def sample(params, batch, seed, *, sampler, steps):
    return compiled(sampler, steps)(params, frozen, batch, seed)

  return sample


def reconstruction(networks: Networks, frozen: Params) -> Callable:
  """(params, images) -> what the autoencoder makes of them, clipped to [0, 1]."""

  def run(params, images):
    tree = {**frozen, **params}
    return jnp.clip(networks.decode(tree, networks.encode(tree, images)), 0, 1)

  return run
