"""What a config's train step costs on a topology, compiled ahead of time: no chip, no weights.

python -m cdd.plan --config=configs/depth.py --topology=v5e:4x4 --family=sd21
python -m cdd.plan --config=configs/depth.py:tiny --topology=cpu:4
"""

from cdd.core import runtime

runtime.configure()

import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import runpy  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import NamedTuple  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.extend.core import jaxprs_in_params  # noqa: E402

from cdd.core import trees  # noqa: E402
from cdd.core.errors import UserError  # noqa: E402
from cdd.core.registry import choose  # noqa: E402
from cdd.main import FLAGS, parse  # noqa: E402
from cdd.models import functional  # noqa: E402
from cdd.pretrained import (
  diffusers,  # noqa: E402
  priors,  # noqa: E402
)
from cdd.runs import experiment as build  # noqa: E402
from cdd.training import sharding  # noqa: E402

FAMILIES = 'configs/stable_diffusion.py'
# GiB of HBM of a chip; the compiler itself refuses what does not fit.
CAPACITY = dict(v4=32, v5e=16, v5p=95, v6e=32, tpu7x=192)
# libtpu looks for a TPU's metadata server and takes a lock for the whole machine otherwise.
LIBTPU = dict(
  TPU_SKIP_MDS_QUERY='1', TPU_WORKER_HOSTNAMES='localhost', ALLOW_MULTIPLE_LIBTPU_LOAD='1'
)
GIB = 2**30

flags.DEFINE_string('topology', 'v5e:4x4', "A TPU topology, or 'cpu:N' for N devices of this CPU.")
flags.DEFINE_string(
  'family', None, f'Plans for this family of {FAMILIES} in place of the folder config.prior.path.'
)
flags.DEFINE_integer('resolution', None, "The pictures' side in pixels, if not the config's own.")


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
  kind, _, shape = topology.partition(':')
  if kind == 'cpu':
    return jax.devices('cpu')[: int(shape or 1)]
  choose(CAPACITY | dict(cpu=None), kind, 'kind of chip')
  try:
    return topologies.get_topology_desc(platform='tpu', topology_name=topology).devices
  except Exception as error:  # libtpu raises no narrower class.
    raise UserError(
      f'No devices for the topology {topology!r}: {error}. Compiling for TPUs needs the plan '
      "extra, pip install 'cdd[plan]'."
    ) from error


def prior(spec, family: str | None) -> diffusers.Pretrained:
  """The prior, of a folder's config.json files, of a family's fields or of `config.prior.new`.

  Its parameters are one zero each, repeated: they have a shape and take no memory.

  Raises:
    UserError: there is no such family or folder.
  """
  if family:
    fields = dict(choose(runpy.run_path(FAMILIES)['FAMILIES'], family, 'family'))
  else:
    fields = of_folder(priors.folder_of(spec.path)) if spec.path else {}
  fields |= {name: dict(value) for name, value in spec.get('new', {}).items()}
  configs = {
    name: diffusers.parse(name, fields[name]) for name in diffusers.COMPONENTS if name in fields
  }
  params = {}
  for name, config in configs.items():
    make = lambda name=name, config=config: diffusers.make(name, config)
    params |= trees.prefixed(functional.abstract(make)[1], name)
  zeros = {k: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for k, leaf in params.items()}
  return diffusers.Pretrained(configs, zeros, fields['scheduler'], {})


def of_folder(folder: Path) -> dict[str, dict]:
  """Component -> its fields, of the JSON files of a diffusers folder."""
  read = lambda path: json.loads(path.read_text())
  return {path.parent.name: read(path) for path in folder.glob('*/*config.json')}


def compiled(config, prior: diffusers.Pretrained, resolution: int, devices: list) -> Plan:
  """Compiles the train step that `cdd.train` would run.

  Raises:
    UserError: it does not fit the memory of a chip.
  """
  networks, adapter = build.adapted_networks(config.model, prior)
  everything = {**prior.params, **adapter}
  train, frozen = build.divide(config, everything)
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  _, state, update = build.program(config, networks, train, mesh)
  batch = batch_shapes(config, prior, networks, resolution)
  arguments = (
    state,
    placed(frozen, sharding.of_params(frozen, mesh)),
    placed(batch, dict.fromkeys(batch, sharding.over_batch(mesh))),
    placed(jax.eval_shape(lambda: jax.random.key(0)), sharding.replicated(mesh)),
  )
  start = time.perf_counter()
  traced = update.trace(*arguments)
  program = compile_or_explain(traced.lower())
  memory = program.memory_analysis()
  held = sum(map(on_one_chip, jax.tree.leaves(arguments)))
  new = memory.output_size_in_bytes - memory.alias_size_in_bytes  # What is donated counts once.
  count = lambda tree: sum(math.prod(leaf.shape) for leaf in tree.values())
  return Plan(
    trainable=count(train),
    total=count(everything),
    arguments=held,
    temporaries=memory.temp_size_in_bytes,
    peak=held + memory.temp_size_in_bytes + new,
    flops=flops(traced.jaxpr.jaxpr),
    collectives=collectives(program.as_text()),
    seconds=time.perf_counter() - start,
  )


def placed(shapes, places):
  """Shapes with their shardings."""
  of = lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
  return jax.tree.map(of, shapes, places)


def on_one_chip(leaf: jax.ShapeDtypeStruct) -> int:
  """The bytes of a chip's part of an array."""
  return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def batch_shapes(config, prior, networks, resolution: int) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a global batch; latents where the config encodes them ahead."""
  count = config.data.batch_size
  shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct((count, *sizes), dtype)
  image = shape(resolution, resolution, 3)
  batch = dict(image=image, condition=image)
  if config.data.get('cache', 0):
    latents = shape(*networks.latent_shape(image.shape)[1:])
    batch.update(image_latents=latents, condition_latents=latents)
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


def flops(jaxpr) -> float:
  """Multiplications and additions of the dot products and convolutions of a jaxpr.

  XLA's own count is not faithful on TPU (it counts what it rewrote).
  """
  total = 0.0
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name == 'dot_general':
      left = eqn.invars[0].aval.shape
      contracted = math.prod(left[axis] for axis in params['dimension_numbers'][0][0])
      total += 2 * eqn.outvars[0].aval.size * contracted
    elif name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval
      outputs = kernel.shape[params['dimension_numbers'].rhs_spec[0]]
      # A dilated input holds zeros, which are not work.
      zeros = math.prod(params['lhs_dilation'])
      total += 2 * eqn.outvars[0].aval.size * kernel.size / outputs / zeros
    elif name == 'cond':
      total += max(flops(branch.jaxpr) for branch in params['branches'])
    else:
      times = params['length'] if name == 'scan' else 1
      total += times * sum(map(flops, jaxprs_in_params(params)))
  return total


def collectives(text: str) -> dict[str, int]:
  """Kind -> bytes of the results of the collective operations of an optimised HLO module.

  What lies in a loop counts once.
  """
  kinds = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'
  found = Counter()
  for shapes, kind in re.findall(rf'= (.*?) ({kinds})(?:-done)?\(', text):
    found[kind] += sum(map(bytes_of, re.findall(r'(\w+)\[([\d,]*)\]', shapes)))
  return dict(found)


def bytes_of(shape: tuple[str, str]) -> int:
  """('bf16', '8,128') -> 2048."""
  width = re.search(r'\d+', shape[0])
  bits = int(width[0]) if width else 8
  return bits * math.prod(int(n) for n in shape[1].split(',') if n) // 8


def report(plan: Plan, topology: str) -> str:
  """The plan as lines of text."""
  capacity = CAPACITY.get(topology.partition(':')[0])
  of = f' of {capacity} GiB' if capacity else ''
  rows = {
    'parameters': f'{plan.trainable:,} trained of {plan.total:,}',
    'memory of a chip': f'{plan.peak / GIB:.2f} GiB{of}: '
    f'{plan.arguments / GIB:.2f} arguments, {plan.temporaries / GIB:.2f} temporaries',
    'work of a step': f'{plan.flops / 1e12:.3f} TFLOP on all chips (products and convolutions)',
    'collectives of a chip': ', '.join(
      f'{kind} {size / 2**20:.1f} MiB' for kind, size in sorted(plan.collectives.items())
    )
    or 'none',
    'compiled in': f'{plan.seconds:.0f} s',
  }
  return '\n'.join(f'{name:<22} {value}' for name, value in rows.items())


def prepare(topology: str) -> None:
  """Sets what must be set before jax looks for devices."""
  kind, _, count = topology.partition(':')
  jax.config.update('jax_platforms', 'cpu')
  if kind == 'cpu':
    jax.config.update('jax_num_cpu_devices', int(count or 1))
  for name, value in LIBTPU.items():
    os.environ.setdefault(name, value)


def main(arguments):
  del arguments
  config, topology = FLAGS.config, FLAGS.topology
  try:
    prepare(topology)
    shapes = prior(config.prior, FLAGS.family)
    resolution = FLAGS.resolution or config.data.source.get('size') or 512
    plan = compiled(config, shapes, resolution, devices(topology))
  except UserError as error:
    sys.exit(f'error: {error}')
  print(f'{config.name} on {topology}, {resolution} px, a batch of {config.data.batch_size}')
  print(report(plan, topology))


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
