"""The command line of training: `python -m cdd.main --config=configs/depth.py:tiny`.

Exit codes: 0, the run is finished; 75, a signal stopped it and the same command resumes; else it
failed.
"""

import json
import sys

from absl import flags

from cdd.core import cli, hosts
from cdd.core.cli import FLAGS
from cdd.runs import config as configs
from cdd.runs import loop
from cdd.training import profiler


def define_flags() -> None:
  cli.define_config()
  flags.declare_key_flag('config')
  flags.DEFINE_string('workdir', None, 'The folder of the run; runs/NAME if not given.')
  cli.define_processes()
  flags.DEFINE_bool('print_config', False, 'Prints every field of the config and ends.')


def main() -> None:
  config = FLAGS.config
  if FLAGS.print_config:
    print(json.dumps(configs.as_json(config), indent=2))
    return
  profiler.unheard()
  workdir = cli.folder(FLAGS.workdir or f'runs/{config.name}', 'workdir')
  cli.join_processes()
  with hosts.together():
    finished = loop.run(config, workdir)
  if not finished:
    sys.exit(hosts.RESUMES)


if __name__ == '__main__':
  define_flags()
  cli.run(main)
