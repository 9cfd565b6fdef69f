"""Owns what a program costs on a topology, compiled ahead of time: no chip, no weights."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.core.types import Params
from cdd.data.tasks.task import DRAWS
from cdd.data.transforms import sides
from cdd.diffusion import times
from cdd.diffusion.samplers import SAMPLERS
from cdd.models import casts, components, functional
from cdd.pretrained import diffusers, families, priors, weights
from cdd.runs import counting, hlo, streams
from cdd.runs.objective import method_of
from cdd.runs.program import check, divide, program
from cdd.sampling.draw import draw
from cdd.training import sharding


class Part(NamedTuple):
  """A program to be compiled.

  Attributes:
    function: that `jax.jit` made.
    arguments: kind of memory ('frozen weights', ...) -> its arguments, in their order: arrays or
      trees, each leaf with its sharding.
    images: that one call of it makes or trains on.
    trainable, total: numbers of parameters.
    whole: what to say of parameters that no chip has a part of (`sharding.whole`).
  """

  function: Any
  arguments: dict[str, Any]
  images: int
  trainable: int
  total: int
  whole: str


class Plan(NamedTuple):
  """What a call of a program costs.

  Attributes:
    trainable, total: numbers of parameters.
    images: that a call makes or trains on.
    held: kind of memory -> bytes on one chip, of what the program is given (also what it does not
      use); 'activations' are its temporaries, and 'results' what takes no argument's place.
    flops: of the matrix products and convolutions, on all chips together.
    kernels: those of them in fused kernels, for which the compiler estimates no cycles.
    cost: bytes, cycles and collectives of one chip (`hlo.Cost`).
    seconds: that the compiler took.
  """

  trainable: int
  total: int
  images: int
  held: dict[str, int]
  flops: float
  kernels: float
  cost: hlo.Cost
  seconds: float

  @property
  def peak(self) -> int:
    """The most bytes that are held on one chip."""
    return sum(self.held.values())


class TooLarge(UserError):
  """The compiler found no room for a program; `needs` and `has` are its words, such as '17.30G'."""

  def __init__(self, needs: str, has: str):
    super().__init__(f'The program needs {needs} of HBM on each chip, which has {has}. {ADVICE}')
    self.needs, self.has = needs, has


# What compilers say of too little memory: what is needed, and what there is.
COMPLAINTS = (
  r'Used ([\d.]+\w) of ([\d.]+\w) hbm',
  r'required for HLO temporaries \(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)',
)
WORDS = ('tokens', 'tokens_2', 'states', 'pooled')  # What a batch may have of its captions.
ADVICE = (
  'A larger config.accumulate (smaller micro-batches), config.model.remat where it is off, a '
  'smaller config.data.batch_size or a larger config.mesh.fsdp (parameters and moments cut over '
  'more chips) ask for less.'
)


def prior(spec, family: Mapping | None) -> diffusers.Pretrained:
  """The prior, of a folder's config.json files, of a family's fields or of `config.prior.new`.

  Its parameters are one zero each, repeated: they have a shape and take no memory.

  Args:
    spec: `config.prior`.
    family: component -> the fields of its config.json, in place of the folder.

  Raises:
    UserError: there is no such folder.
  """
  fields = dict(family or {})
  if spec.path and not family:
    fields = of_folder(priors.folder_of(spec.path))
  if spec.get('vae'):
    fields['vae'] = weights.read_json(priors.vae_folder(spec.vae) / 'config.json')
  fields |= {name: dict(value) for name, value in spec.get('new', {}).items()}
  configs = {
    name: families.parse(name, fields[name]) for name in families.COMPONENTS if name in fields
  }
  params = {}
  for name, config in configs.items():

    def make(name=name, config=config):
      return components.make(name, config)

    params |= trees.prefixed(functional.abstract(make)[1], name)
  zeros = {k: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for k, leaf in params.items()}
  return diffusers.Pretrained(configs, zeros, fields['scheduler'], {})


def of_folder(folder: Path) -> dict[str, dict]:
  """Component -> its fields, of the JSON files of a diffusers folder."""

  def read(path):
    return json.loads(path.read_text())

  return {path.parent.name: read(path) for path in folder.glob('*/*config.json')}


def networks_of(config, prior: diffusers.Pretrained):
  """(the networks, the parameters that are trained, those that are frozen)."""
  networks, added = priors.networks(config.model, prior, beside=priors.beside_of(config.method))
  train, frozen = divide(config, {**prior.params, **added})
  check(config, prior.configs, train)
  return networks, train, frozen


def held(config, prior: diffusers.Pretrained, params: Params) -> Params:
  """The shapes of weights that nothing trains, in the dtype that they are held in."""
  cast = partial(casts.held, configs=prior.configs, dtype=config.model.dtype)
  return jax.eval_shape(cast, params)


def training(config, prior: diffusers.Pretrained, resolution, devices: list) -> Part:
  """The training step of a config, as a run compiles it.

  Args:
    resolution: the pictures' side in pixels, or their (height, width).

  Raises:
    UserError: the batch or the mesh does not fit the devices.
  """
  networks, train, frozen = networks_of(config, prior)
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  sharding.refuse_uneven(mesh, config.data.batch_size)
  finish = None if ahead(config) else streams.task_of(config).finish
  batch = batch_shapes(config, prior, networks, resolution, finish)
  words = {name: batch[name] for name in WORDS if name in batch}
  empty = {name: np.zeros(leaf.shape[1:], leaf.dtype) for name, leaf in words.items()}
  step = program(config, networks, train, mesh, finish, empty)
  frozen = held(config, prior, frozen)
  arguments = {
    'state': step.abstract,
    'frozen weights': placed(frozen, sharding.of_params(frozen, mesh, config.sharding)),
    'batch': placed(batch, dict.fromkeys(batch, sharding.over_batch(mesh))),
    'key': placed(jax.eval_shape(lambda: jax.random.key(0)), sharding.replicated(mesh)),
  }
  params = {**train, **frozen}
  numbers = config.data.batch_size, count(train), count(params)
  whole = sharding.whole(params, mesh, config.sharding, trained=train)
  return Part(step.update, arguments, *numbers, whole)


def sampling(config, prior: diffusers.Pretrained, resolution, devices: list, steps: int) -> Part:
  """Drawing a batch of images in some steps, by the sampler of the config's method.

  Raises:
    UserError: as `training`.
  """
  networks, train, frozen = networks_of(config, prior)
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  sharding.refuse_uneven(mesh, config.data.batch_size)
  height, width = sides(resolution)
  sampler = choose(SAMPLERS, method_of(config).sampler, 'sampler')()
  visited = times.Timesteps().times(networks.schedule.num_steps, steps)

  def run(params, raw, key):
    of_latents = networks.latent_shape((config.data.batch_size, height, width, 3))
    z_rng, rng = jax.random.split(key)
    z = jax.lax.with_sharding_constraint(jax.random.normal(z_rng, of_latents), over)
    return draw(networks, params, raw, z, rng, sampler=sampler, times=visited)

  over = sharding.over_batch(mesh)
  shapes = pictures(config, networks, resolution) | tokens(config, prior)
  raw = {
    name: leaf for name, leaf in shapes.items() if name != 'image' or 'image' in networks.reads
  }
  params = held(config, prior, {**frozen, **train})
  arguments = {
    'weights': placed(params, sharding.of_params(params, mesh, config.sharding)),
    'batch': placed(raw, dict.fromkeys(raw, over)),
    'key': placed(jax.eval_shape(lambda: jax.random.key(0)), sharding.replicated(mesh)),
  }
  function = sharding.jit(run, mesh, out_shardings=over)
  numbers = config.data.batch_size, count(train), count(params)
  return Part(function, arguments, *numbers, sharding.whole(params, mesh, config.sharding))


def compiled(part: Part) -> Plan:
  """Compiles a program, and reads off what it costs.

  Raises:
    TooLarge: it does not fit the memory of a chip.
  """
  start = time.perf_counter()
  traced = part.function.trace(*part.arguments.values())
  executable = compile_or_explain(traced.lower())
  memory = executable.memory_analysis()
  held = {}
  for kind, arguments in part.arguments.items():
    held |= held_of(kind, arguments)
  held['activations'] = memory.temp_size_in_bytes
  # What is donated counts once.
  held['results'] = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return Plan(
    trainable=part.trainable,
    total=part.total,
    images=part.images,
    held=held,
    flops=counting.flops(traced.jaxpr.jaxpr),
    kernels=counting.flops(traced.jaxpr.jaxpr, kernels=True),
    cost=hlo.cost(executable.as_text()),
    seconds=time.perf_counter() - start,
  )


def held_of(kind: str, arguments) -> dict[str, int]:
  """Kind of memory -> its bytes on one chip; a training state is told apart."""
  if kind != 'state':
    return {kind: sum(map(on_one_chip, jax.tree.leaves(arguments)))}
  parts = {
    'trained weights': arguments.params,
    'their average': arguments.target,
    'optimizer': (arguments.opt, arguments.step),
  }
  return {name: sum(map(on_one_chip, jax.tree.leaves(part))) for name, part in parts.items()}


def count(tree) -> int:
  """The number of parameters of a flat tree."""
  return sum(math.prod(leaf.shape) for leaf in tree.values())


def placed(shapes, places):
  """Shapes with their shardings."""

  def of(leaf, place):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

  return jax.tree.map(of, shapes, places)


def on_one_chip(leaf: jax.ShapeDtypeStruct) -> int:
  """The bytes of a chip's part of an array."""
  return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def ahead(config) -> bool:
  """Whether latents are encoded before the step: by a cache, or by cdd.prepare."""
  return bool(config.data.get('cache', 0)) or prepared(config)


def prepared(config) -> bool:
  """Whether the examples are those of cdd.prepare, which hold the text's states too."""
  return config.data.source.name == 'prepared'


def batch_shapes(
  config, prior, networks, resolution, finish: Callable | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a global batch; latents and states where they are encoded ahead.

  Args:
    finish: the task's; what it makes is not in a batch (`Task.finish`).
  """
  batch, text = pictures(config, networks, resolution), tokens(config, prior)
  if finish is not None:
    drawn = dict(image=batch['image'], draws=shape(config, DRAWS, dtype=jnp.uint32))
    made = jax.eval_shape(finish, drawn)
    batch = {name: leaf for name, leaf in batch.items() if name not in made} | drawn
  if ahead(config):
    latents = shape(config, *networks.latent_shape(batch['image'].shape)[1:])
    of_latents = [name for name, space in networks.reads.items() if 'latent' in space]
    as_they_are = {n: leaf for n, leaf in batch.items() if n in networks.reads}
    batch = {n: leaf for n, leaf in as_they_are.items() if n not in of_latents}
    batch |= {f'{name}_latents': latents for name in ('image', *of_latents)}
  if prepared(config):
    made = jax.eval_shape(networks.text, prior.params, batch | text)
    text = {name: getattr(made, name) for name in ('states', 'pooled', 'sizes')}
    text = {
      name: jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
      for name, leaf in text.items()
      if leaf is not None
    }
  return batch | text


def shape(config, *sizes, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
  """The shape of a batch of arrays."""
  return jax.ShapeDtypeStruct((config.data.batch_size, *sizes), dtype)


def pictures(config, networks, resolution) -> dict[str, jax.ShapeDtypeStruct]:
  """The image of a batch and what the adapter reads, in pixels."""
  image, mask = (shape(config, *sides(resolution), channels) for channels in (3, 1))
  return {name: mask if name == 'mask' else image for name in ('image', *networks.reads)}


def tokens(config, prior) -> dict[str, jax.ShapeDtypeStruct]:
  """The captions of a batch, and the sizes that SDXL reads beside them."""
  names = dict(text_encoder='tokens', text_encoder_2='tokens_2')
  found = {
    tokens: shape(config, prior.configs[name].max_position_embeddings, dtype=jnp.int32)
    for name, tokens in names.items()
    if name in prior.configs
  }
  return found | (dict(sizes=shape(config, 6)) if 'tokens_2' in found else {})


def compile_or_explain(lowered):
  """The compiled program.

  Raises:
    TooLarge: the compiler's complaint about memory, as a sentence.
  """
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    found = [found for said in COMPLAINTS if (found := re.search(said, str(error)))]
    if not found:
      raise
    raise TooLarge(*found[0].groups()) from error
