"""The command line: `python -m cdd.main --config=configs/depth.py:tiny [--workdir=...]`."""

from cdd.core import runtime

runtime.configure()

import re  # noqa: E402
import runpy  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
from absl import app, flags, logging  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402

from cdd.core.errors import UserError  # noqa: E402
from cdd.runs import loop as train  # noqa: E402

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
  'config', None, 'The experiment: configs/NAME.py[:size,method=...].'
)
flags.DEFINE_string('workdir', None, 'Where the run lives; runs/NAME if not given.')
flags.DEFINE_bool('distributed', False, 'Several hosts: jax.distributed.initialize() first.')
flags.mark_flag_as_required('config')


def parse(arguments: list[str]) -> list[str]:
  """The flags; a mistake in them is one line that names it and the choices."""
  try:
    check(arguments)
    return FLAGS(arguments)
  except (UserError, flags.Error) as error:
    return sys.exit(f'error: {error}')


def check(arguments: list[str]) -> None:
  """Looks for the config and the fields that the flags name, as ml_collections says less.

  Raises:
    UserError: there is no such config, option or field.
  """
  given = re.search(r'(?:^|\n)--?config[=\n]([^\n]*)', '\n'.join(arguments))
  if not given:
    return
  path, colon, option = given[1].partition(':')
  if not (path.endswith('.py') and Path(path).is_file()):
    choices = [
      str(p) for p in sorted(Path('configs').glob('*.py')) if 'get_config' in p.read_text()
    ]
    raise UserError(f'There is no config {path!r}; choose one of {choices}, or write one.')
  make = runpy.run_path(path).get('get_config')
  if make is None:
    raise UserError(f'{path!r} is not a config: it has no function `get_config`.')
  try:
    config = make(option) if colon else make()
  except ValueError as error:
    raise UserError(str(error)) from error
  for argument in arguments:
    if field := re.match(r'--?(?:no)?config[.]([^=]*)', argument):
      check_field(config, field[1].split('.'))


def check_field(config: ConfigDict, names: list[str]) -> None:
  """Walks the fields as far as they are mappings."""
  for depth, name in enumerate(names):
    if not isinstance(config, ConfigDict):
      return
    if name not in config:
      where = '.'.join(['config', *names[:depth]])
      raise UserError(f'Unknown field {name!r} of {where}; choose one of {sorted(config)}.')
    config = config[name]


def main(arguments):
  if len(arguments) > 1:
    sys.exit(f'error: unexpected arguments {arguments[1:]}; every option starts with --.')
  logging.set_verbosity(logging.WARNING)
  if FLAGS.distributed:
    jax.distributed.initialize()
  workdir = Path(FLAGS.workdir or f'runs/{FLAGS.config.name}')
  try:
    train.run(FLAGS.config, workdir)
  except UserError as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
