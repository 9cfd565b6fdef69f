"""The command line of planning: what a config's train step costs on a topology, without a chip.

python -m cdd.plan --config=configs/depth.py --topology=v5e:4x4 --family=sd21
python -m cdd.plan --config=configs/depth.py:tiny --topology=cpu:4
"""

import math
import runpy

from absl import flags

from cdd.core import cli
from cdd.core.cli import FLAGS
from cdd.core.registry import choose
from cdd.data.transforms import several, sides, spelled
from cdd.runs import planning

GIB = 2**30


def define_flags() -> None:
  cli.define_config()
  flags.declare_key_flag('config')
  flags.DEFINE_string(
    'topology', 'v5e:4x4', "A TPU topology, or 'cpu:N' for N devices of this CPU."
  )
  flags.DEFINE_string(
    'family', None, f'Plans for one of {sorted(families())} in place of the prior of the config.'
  )
  flags.DEFINE_integer('resolution', None, "The pictures' side in pixels, if not the config's.")


def families() -> dict:
  """The models of configs/stable_diffusion.py."""
  return runpy.run_path(str(cli.CONFIGS / 'stable_diffusion.py'))['FAMILIES']


def report(plan: planning.Plan, topology: str) -> str:
  """The plan as lines of text."""
  capacity = planning.CAPACITY.get(topology.partition(':')[0])
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


def main() -> None:
  config, topology = FLAGS.config, FLAGS.topology
  planning.prepare(topology)
  family = FLAGS.family and choose(families(), FLAGS.family, 'family')
  shapes = planning.prior(config.prior, family)
  size = FLAGS.resolution or config.data.source.get('size') or 512
  size = max(map(sides, size), key=math.prod) if several(size) else size
  plan = planning.compiled(config, shapes, size, planning.devices(topology))
  batch = config.data.batch_size
  print(f'{config.name} on {topology}, {spelled(size)} px, a batch of {batch}')
  print(report(plan, topology))


if __name__ == '__main__':
  define_flags()
  cli.run(main)
