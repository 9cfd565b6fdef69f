"""Owns what a train step costs on a topology, compiled ahead of time: no chip, no weights."""

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.data.tasks.task import DRAWS
from cdd.data.transforms import sides
from cdd.models import components, functional
from cdd.pretrained import diffusers, families, priors, weights
from cdd.runs import counting, streams
from cdd.runs.program import divide, program
from cdd.training import sharding

# GiB of HBM of a chip; the compiler itself refuses what does not fit.
CAPACITY = dict(v4=32, v5e=16, v5p=95, v6e=32, tpu7x=192)
# libtpu looks for a TPU's metadata server and takes a lock for the whole machine otherwise.
LIBTPU = dict(
  TPU_SKIP_MDS_QUERY='1', TPU_WORKER_HOSTNAMES='localhost', ALLOW_MULTIPLE_LIBTPU_LOAD='1'
)


class Plan(NamedTuple):
  """What a step costs.

  Attributes:
    trainable, total: numbers of parameters.
    arguments, temporaries, peak: bytes on one chip. Arguments are the state, the frozen weights
      (those too that the step does not use) and the batch.
    flops: of the matrix products and convolutions of one step, on all chips together.
    collectives: kind -> bytes that one chip receives in a step.
    seconds: that the compiler took.
  """

  trainable: int
  total: int
  arguments: int
  temporaries: int
  peak: int
  flops: float
  collectives: dict[str, int]
  seconds: float


def devices(topology: str) -> list:
  """The devices of 'v5e:4x4', or of 'cpu:4'.

  Raises:
    UserError: there is no such topology, or libtpu is not installed.
  """
  kind, _, _ = topology.partition(':')
  if kind == 'cpu':
    return jax.devices('cpu')[: cpus(topology)]
  choose(CAPACITY | dict(cpu=None), kind, 'kind of chip')
  try:
    return topologies.get_topology_desc(platform='tpu', topology_name=topology).devices
  except Exception as error:  # libtpu raises no narrower class.
    raise UserError(
      f'No devices for the topology {topology!r}: {error}. Compiling for TPUs needs the plan '
      "extra, pip install 'cdd-jax[plan]'."
    ) from error


def cpus(topology: str) -> int:
  """'cpu:4' -> 4; 'cpu' is one device.

  Raises:
    UserError: the number is none.
  """
  count = topology.partition(':')[2] or '1'
  if not (count.isdecimal() and int(count)):
    raise UserError(
      f'There is no topology {topology!r}; cpu:N needs a number of devices, 1 or more.'
    )
  return int(count)


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


def compiled(config, prior: diffusers.Pretrained, resolution, devices: list) -> Plan:
  """Compiles the train step that a run would run.

  Args:
    resolution: the pictures' side in pixels, or their (height, width).

  Raises:
    UserError: it does not fit the memory of a chip.
  """
  networks, added = priors.networks(config.model, prior)
  everything = {**prior.params, **added}
  train, frozen = divide(config, everything)
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  finish = None if config.data.get('cache', 0) else streams.task_of(config).finish
  step = program(config, networks, train, mesh, finish)
  batch = batch_shapes(config, prior, networks, resolution, finish)
  arguments = (
    step.abstract,
    placed(frozen, sharding.of_params(frozen, mesh, config.sharding)),
    placed(batch, dict.fromkeys(batch, sharding.over_batch(mesh))),
    placed(jax.eval_shape(lambda: jax.random.key(0)), sharding.replicated(mesh)),
  )
  start = time.perf_counter()
  traced = step.update.trace(*arguments)
  executable = compile_or_explain(traced.lower())
  memory = executable.memory_analysis()
  held = sum(map(on_one_chip, jax.tree.leaves(arguments)))
  new = memory.output_size_in_bytes - memory.alias_size_in_bytes  # What is donated counts once.

  def count(tree):
    return sum(math.prod(leaf.shape) for leaf in tree.values())

  return Plan(
    trainable=count(train),
    total=count(everything),
    arguments=held,
    temporaries=memory.temp_size_in_bytes,
    peak=held + memory.temp_size_in_bytes + new,
    flops=counting.flops(traced.jaxpr.jaxpr),
    collectives=counting.collectives(executable.as_text()),
    seconds=time.perf_counter() - start,
  )


def placed(shapes, places):
  """Shapes with their shardings."""

  def of(leaf, place):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

  return jax.tree.map(of, shapes, places)


def on_one_chip(leaf: jax.ShapeDtypeStruct) -> int:
  """The bytes of a chip's part of an array."""
  return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def batch_shapes(
  config, prior, networks, resolution, finish: Callable | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a global batch; latents where the config encodes them ahead.

  Args:
    finish: the task's; what it makes is not in a batch (`Task.finish`).
  """
  count = config.data.batch_size

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((count, *sizes), dtype)

  image = shape(*sides(resolution), 3)
  mask = shape(*sides(resolution), 1)
  batch = {name: mask if name == 'mask' else image for name in ('image', *networks.reads)}
  if finish is not None:
    drawn = dict(image=image, draws=shape(DRAWS, dtype=jnp.uint32))
    made = jax.eval_shape(finish, drawn)
    batch = {name: leaf for name, leaf in batch.items() if name not in made} | drawn
  if config.data.get('cache', 0):
    latents = shape(*networks.latent_shape(image.shape)[1:])
    batch.update({f'{name}_latents': latents for name in list(batch) if name != 'mask'})
  for name, tokens in dict(text_encoder='tokens', text_encoder_2='tokens_2').items():
    if name in prior.configs:
      length = prior.configs[name].max_position_embeddings
      batch[tokens] = shape(length, dtype=jnp.int32)
  return batch


def compile_or_explain(lowered):
  """The compiled program, or the compiler's complaint about memory as a sentence."""
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    found = re.search(r'Used ([\d.]+\w) of ([\d.]+\w) hbm', str(error))
    if not found:
      raise
    raise UserError(
      f'The step needs {found[1]} of HBM on each chip, which has {found[2]}. A larger accumulate '
      '(smaller micro-batches), a smaller data.batch_size or a larger mesh.fsdp (parameters and '
      'moments cut over more chips) asks for less.'
    ) from error


def prepare(topology: str) -> None:
  """Sets what must be set before jax looks for devices."""
  jax.config.update('jax_platforms', 'cpu')
  if topology.partition(':')[0] == 'cpu':
    jax.config.update('jax_num_cpu_devices', cpus(topology))
  for name, value in LIBTPU.items():
    os.environ.setdefault(name, value)
