"""The command line: `python -m cdd.main --config=configs/depth.py:tiny [--workdir=...]`."""

from cdd import runtime

runtime.configure()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
from absl import app, flags, logging  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from cdd import train  # noqa: E402
from cdd.errors import UserError  # noqa: E402

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
  'config', None, 'The experiment: configs/NAME.py[:size,method=...].'
)
flags.DEFINE_string('workdir', None, 'Where the run lives; runs/NAME if not given.')
flags.DEFINE_bool('distributed', False, 'Several hosts: jax.distributed.initialize() first.')
flags.mark_flag_as_required('config')


def main(arguments):
  if len(arguments) > 1:
    raise app.UsageError(f'Unexpected arguments {arguments[1:]}.')
  logging.set_verbosity(logging.WARNING)
  if FLAGS.distributed:
    jax.distributed.initialize()
  workdir = Path(FLAGS.workdir or f'runs/{FLAGS.config.name}')
  try:
    train.run(FLAGS.config, workdir)
  except UserError as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  app.run(main)
