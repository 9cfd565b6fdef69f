"""What the programs of Stable Diffusion cost on TPUs, by the TPU compiler, without one.

python -m benchmarks.tpu --folder=FOLDER            # compiles what is not in the folder yet
python -m benchmarks.tpu --folder=FOLDER --only=unet  # rows whose name begins so
python -m benchmarks.tpu --folder=FOLDER --table    # what is there, as a table

Each row is a program compiled in a process of its own, at the compiler's default effort or, where
the name says so, at its lowest: 6 to 45 minutes and up to 18 GB each. Loops are counted out, and
cycles are the compiler's estimate. Programs are compiled from shapes, without weights and data.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdd.core import files
from cdd.core.errors import UserError
from cdd.models.networks import Denoiser
from cdd.runs import estimates, planning, topologies
from cdd.training import sharding
from configs import depth
from configs.stable_diffusion import FAMILIES

CHIPS = {'v5e:4x4': 16, 'v6e:2x4': 8, 'v5p:2x2x2': 8}
SIDES = dict(sd15=512, sd21=512, sdxl=1024)


class Row(NamedTuple):
  """A program to be compiled.

  Attributes:
    make: (config, shapes of the prior, side, devices) -> a `planning.Part`.
    options: what follows 'depth:full,prepared=-' in --config.
    batch: of all chips.
    chips: how many of the topology's it runs on; None: on all.
    settings: fields of the config, by their path.
    effort: how much the compiler does to make it fast, from -1 to 1; 0 is its default.
  """

  make: Callable
  options: str
  batch: int
  family: str = 'sd21'
  topology: str = 'v5e:4x4'
  settings: tuple[tuple[str, object], ...] = ()
  chips: int | None = None
  effort: float = 0.0


def evaluation(config, prior, size, devices, *, first: bool) -> planning.Part:
  """One evaluation of the U-Net with its adapter, on one chip, in bfloat16 weights.

  Args:
    first: computes what depends on the condition alone, too.
  """
  networks, train, frozen = planning.networks_of(config, prior)
  params = {**frozen, **train}
  names = [name for name in params if name.partition('.')[0] in ('unet', 'adapter')]
  params = {name: jax.ShapeDtypeStruct(params[name].shape, jnp.bfloat16) for name in names}
  raw = planning.batch_shapes(config, prior, networks, size)
  z = raw.pop('image_latents')
  t = jax.ShapeDtypeStruct((config.data.batch_size, 1, 1, 1), jnp.int32)

  def hints_of(params, raw):
    return networks.adapted(params, 'hints', networks.condition(params, raw))

  def step(params, raw, hints, z, t):
    hints = hints_of(params, raw) if first else hints
    return Denoiser(networks, params, None, networks.condition(params, raw), hints)(z, t, None)

  hints = {} if first else jax.eval_shape(hints_of, params, raw)
  place = sharding.replicated(sharding.make_mesh(devices=devices))
  shapes = dict(weights=params, batch=raw, hints=hints, latents=z, times=t)
  arguments = {
    kind: jax.tree.map(partial(jax.ShapeDtypeStruct.update, sharding=place), tree)
    for kind, tree in shapes.items()
  }
  numbers = config.data.batch_size, planning.count(train), planning.count(params)
  return planning.Part(jax.jit(step), arguments, *numbers, '')


def rows() -> dict[str, Row]:
  """Name -> a row."""
  first, further = (partial(evaluation, first=first) for first in (True, False))
  sample = partial(planning.sampling, steps=4)
  alone = (('accumulate', 1), ('model.remat', False))
  found = {
    'unet, evaluation': Row(first, 'adapter=none,method=finetune', 1, chips=1),
    'controlnet, first evaluation': Row(first, 'adapter=controlnet', 1, chips=1),
    'controlnet, further evaluation': Row(further, 'adapter=controlnet', 1, chips=1),
    'mu_mix, further evaluation': Row(further, 'adapter=mu_mix', 1, chips=1),
  }
  one_each = (('mu_mix', 'replicate', 1), ('mu_mix', 'zero1', 1), ('controlnet', 'zero1', 1))
  for adapter, mode, images in (*one_each, ('mu_mix', 'zero1', 8), ('controlnet', 'zero1', 8)):
    name = f'{adapter} alone distilled, {mode}, {images} on a chip'
    options = f'adapter={adapter},train=adapter'
    settings = (*alone, ('mesh.fsdp', 1), ('sharding', (('.*', mode),)))
    found[name] = Row(planning.training, options, 16 * images, settings=settings)
  for mode, size in (('fsdp', 16), ('zero1', 1)):
    options = 'adapter=none,method=finetune'
    settings = (*alone, ('mesh.fsdp', size), ('sharding', (('.*', mode),)))
    found[f'all finetuned, {mode}'] = Row(planning.training, options, 16, settings=settings)
  for family in SIDES:
    for topology, chips in CHIPS.items():
      cut, whole = (('mesh.fsdp', chips), ('accumulate', 1)), (('mesh.fsdp', 1),)
      where = dict(family=family, topology=topology)
      name = f'{family}, {topology}'
      # At the default effort SD 1.5 took the compiler more than 24 GB of memory.
      least = dict(where, settings=cut, effort=-1.0)
      found[f'{name}, training, lowest effort'] = Row(planning.training, '', chips, **least)
      found[f'{name}, sampling'] = Row(sample, '', chips, **where, settings=whole)
  return found


def compile_one(name: str, folder: Path) -> None:
  """Compiles a row and writes what it costs."""
  row = rows()[name]
  topologies.prepare(row.topology)
  jax.config.update('jax_exec_time_optimization_effort', row.effort)
  devices = topologies.devices(row.topology)[: row.chips]
  config = depth.get_config(f'full,prepared=-{row.options and ","}{row.options}')
  config.data.batch_size = row.batch
  config.update_from_flattened_dict(dict(row.settings))
  prior = planning.prior(config.prior, FAMILIES[row.family])
  program = row.make(config, prior, SIDES[row.family], devices)
  try:
    found = estimates.fields(planning.compiled(program), row.topology, devices)
  except planning.TooLarge as error:
    found = dict(refused=f'needs {error.needs} of {error.has}')
  files.write_json(folder / f'{name}.json', dict(found, name=name, images=row.batch))


def table(folder: Path) -> str:
  """What is there, a row each."""
  lines = [
    '| program | images | GiB | GB | Mcycles | an image | ms at least | MFU | received, MiB |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for name in rows():
    path = folder / f'{name}.json'
    if path.exists():
      lines.append(line(json.loads(path.read_text())))
  return '\n'.join(lines)


def line(found: dict) -> str:
  """A row of the table."""
  images = found['images']
  if 'refused' in found:
    return f'| {found["name"]} | {images} | {found["refused"]} |  |  |  |  |  |  |'
  received = ', '.join(f'{kind} {size:.0f}' for kind, size in found['received_mib'].items())
  memory = f'{found["peak_gib"]:.2f} of {found["capacity_gib"]:g}'
  cells = [found['name'], images, memory, *of_speed(found), received]
  return f'| {" | ".join(map(str, cells))} |'


def of_speed(found: dict) -> list[str]:
  """The cells of a row that say how fast a program is at least.

  At the lowest effort neither the bytes nor the cycles are those of a program that one would run:
  the time is then that of its work and of what it receives, at the chip's peak.
  """
  times = found['milliseconds']
  if rows()[found['name']].effort < 0:
    return ['', '', '', f'{max(times["work"], times["links"]):.1f}', '']
  cycles, chips = found['mcycles'], min(found['chips'], found['images'])
  an_image = cycles * chips / found['images']
  least, mfu = max(times.values()), found['mfu']['cycles']
  moved = f'{found["gb_accessed"]:.1f}'
  return [moved, f'{cycles:.1f}', f'{an_image:.1f}', f'{least:.1f}', f'{mfu:.1%}']


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--folder', type=Path, required=True, help='where the numbers are kept')
  parser.add_argument('--only', default='', help='how the names of the rows begin')
  parser.add_argument('--table', action='store_true', help='compiles nothing')
  parser.add_argument('--row', help='compiles this row in this process')
  asked = parser.parse_args()
  if asked.row:
    compile_one(asked.row, asked.folder)
    return
  asked.folder.mkdir(parents=True, exist_ok=True)
  for name in [] if asked.table else rows():
    if name.startswith(asked.only) and not (asked.folder / f'{name}.json').exists():
      print(f'{name} ...', file=sys.stderr, flush=True)
      here = [sys.executable, '-m', 'benchmarks.tpu', f'--folder={asked.folder}']
      subprocess.run([*here, f'--row={name}'], check=False)
  print(table(asked.folder))


if __name__ == '__main__':
  try:
    main()
  except UserError as error:
    sys.exit(f'error: {error}')
