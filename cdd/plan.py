"""The command line of planning: what a config costs on a topology, compiled without a chip.

python -m cdd.plan --config=depth --topology=v5e:4x4 --family=sd21
python -m cdd.plan --config=depth:tiny --topology=cpu:4 --program=sample --steps=4
python -m cdd.plan --config=depth:tiny --topology=here --json=plan.json
"""

import contextlib
import json
import math
import runpy
import sys
import threading
import time
from pathlib import Path

from absl import flags

from cdd.core import cli, files
from cdd.core.cli import FLAGS
from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.data.transforms import several, sides, spelled
from cdd.runs import config as configs
from cdd.runs import estimates, planning, schema, topologies
from cdd.runs.largest import largest

PROGRAMS = ('train', 'sample')
EVERY = 30  # Seconds, after which a compilation that goes on says so.


def define_flags() -> None:
  cli.define_config()
  flags.declare_key_flag('config')
  flags.DEFINE_string(
    'topology',
    'v5e:4x4',
    "A TPU topology such as 'v5e:4x4' or 'v5e-16', 'cpu:N' for N devices of this CPU, or 'here': "
    'the devices that are present.',
  )
  flags.DEFINE_string(
    'family', None, f'Plans for one of {sorted(families())} in place of the prior of the config.'
  )
  flags.DEFINE_integer('resolution', None, "The pictures' side in pixels, if not the config's.")
  flags.DEFINE_enum('program', 'train', PROGRAMS, 'A training step, or sampling a batch.')
  flags.DEFINE_integer('steps', 4, 'Of sampling.', lower_bound=1)
  flags.DEFINE_bool('largest_batch', False, 'Searches the largest batch that fits, by compiling.')
  flags.DEFINE_string('json', None, "A file to write the plan's numbers to.")
  flags.DEFINE_string('compare', None, 'A file of --json, to whose numbers these are compared.')


def families() -> dict:
  """The models of configs/stable_diffusion.py."""
  return runpy.run_path(str(cli.CONFIGS / 'stable_diffusion.py'))['FAMILIES']


def prior(config):
  """The shapes of the prior; a UserError that it is not at hand names --family."""
  family = FLAGS.family and choose(families(), FLAGS.family, 'family')
  try:
    return planning.prior(config.prior, family)
  except UserError as error:
    hint = f'--family={"|".join(families())} plans for a model of that size without its files.'
    raise UserError(f'{error} {hint}') from error


def resolution(config):
  """The largest size of the pictures."""
  held_out = config.data.get('held_out') or {}
  size = FLAGS.resolution or config.data.source.get('size') or held_out.get('size') or 512
  return max(map(sides, size), key=math.prod) if several(size) else size


def read(path: str | None) -> dict | None:
  """The numbers of an earlier plan.

  Raises:
    UserError: it is none.
  """
  if path is None:
    return None
  try:
    found = json.loads(Path(path).read_text())
    return dict(found, peak_gib=float(found['peak_gib']))
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise UserError(f'--compare={path} is no file that --json wrote: {error}') from error


@contextlib.contextmanager
def saying(what: str):
  """Says that something is being compiled, and from time to time that it still is."""
  over, start = threading.Event(), time.monotonic()

  def say():
    while not over.wait(EVERY):
      print(f'still compiling, {time.monotonic() - start:.0f} s ...', file=sys.stderr, flush=True)

  print(f'Compiling {what} ...', file=sys.stderr, flush=True)
  thread = threading.Thread(target=say, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


def part(config, shapes, size, devices) -> planning.Part:
  """What is to be compiled."""
  if FLAGS.program == 'sample':
    return planning.sampling(config, shapes, size, devices, FLAGS.steps)
  return planning.training(config, shapes, size, devices)


def planned(config, shapes, size, devices) -> dict:
  """The numbers of the program of a config, compiled."""
  program = part(config, shapes, size, devices)
  if program.whole:
    print(program.whole, file=sys.stderr)
  what = f'{FLAGS.program} for {FLAGS.topology}, {spelled(size)} px, a batch of {program.images}'
  with saying(what):
    plan = planning.compiled(program)
  found = estimates.fields(plan, FLAGS.topology, devices)
  steps = dict(steps=FLAGS.steps) if FLAGS.program == 'sample' else {}
  return dict(config=config.name, program=FLAGS.program, resolution=spelled(size), **steps) | found


def searched(config, shapes, size, devices) -> dict:
  """The numbers of the largest batch that fits.

  Raises:
    UserError: not even one image per device and micro-batch does, or the memory is not known.
  """
  has = estimates.capacity(topologies.CHIPS.get(topologies.named(FLAGS.topology)[0]), devices)
  if has is None:
    raise UserError(f'The memory of {FLAGS.topology} is not known; --largest_batch needs it.')
  unit, plans = len(devices) * config.accumulate, {}

  def peak(number: int) -> float | None:
    config.data.batch_size = number * unit
    try:
      plans[number] = planned(config, shapes, size, devices)
    except planning.TooLarge as error:
      print(f'a batch of {number * unit}: {error.needs} of {error.has}', flush=True)
      return None
    said = estimates.of_capacity(plans[number])
    print(f'a batch of {number * unit}: {said}', flush=True)
    return plans[number]['peak_gib']

  best, sure = largest(peak, has)
  if not best:
    raise UserError(f'Not even a batch of {unit} fits. {planning.ADVICE}')
  what = 'that fits' if sure else 'that was tried and fits (a larger one may fit too)'
  print(f'The largest batch {what} is {best * unit}.')
  return plans[best]


def main() -> None:
  config, topology = FLAGS.config, FLAGS.topology
  topologies.prepare(topology)
  schema.check(configs.as_json(config))
  earlier, size = read(FLAGS.compare), resolution(config)
  devices = topologies.devices(topology)
  search = searched if FLAGS.largest_batch else planned
  found = search(config, prior(config), size, devices)
  print(
    f'{config.name}, {FLAGS.program}, on {topology}, {spelled(size)} px, a batch of '
    f'{found["images"]}'
  )
  print(estimates.lines(found, earlier))
  if FLAGS.json:
    files.write_json(Path(FLAGS.json), found)
  if not estimates.fits(found):
    raise UserError(f'The parts of the program do not fit a chip together. {planning.ADVICE}')


if __name__ == '__main__':
  define_flags()
  cli.run(main)
