"""Owns what every command line shares: flags, one-line errors, and configs found by name."""

import ast
import importlib.util
import os
import re
import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from cdd.core import files, hosts, interrupts, runtime
from cdd.core.errors import UserError
from cdd.core.registry import named

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # Flags that are defined here are those of the command that asks.
CONFIGS = Path(__file__).parents[1] / 'configs'  # In a checkout a link to the folder at its top.


def run(main: Callable[..., None], *, paths: bool = False) -> None:
  """Runs a command after its flags are parsed; a UserError ends it with one line.

  Args:
    paths: whether `main` is called with the arguments without --; else there are none.
  """

  def guarded(arguments: list[str]) -> None:
    try:
      if len(arguments) > 1 and not paths:
        raise UserError(f'Unexpected arguments {arguments[1:]}; every option starts with --.')
      logging.set_verbosity(logging.WARNING)
      leave_out_noise()
      interrupts.watch()
      runtime.configure()
      main(arguments[1:]) if paths else main()
    except UserError as error:
      sys.exit(f'error: {error}')
    except KeyboardInterrupt:
      sys.stdout.flush()
      interrupts.end()
    except BrokenPipeError:  # The reader of the output, such as `head`, has ended.
      os._exit(1)
    except OSError as error:
      if error.errno not in files.REFUSED:
        raise
      sys.exit(f'error: {error}')

  app.run(guarded, flags_parser=parse)


def leave_out_noise() -> None:
  """Keeps tracebacks of background threads away: what broke there is raised in the main thread."""

  def hook(kind, error, trace) -> None:
    if not (kind is RuntimeError and str(error) == 'Event loop is closed'):  # TensorStore's.
      sys.__excepthook__(kind, error, trace)

  sys.excepthook = hook
  handler = logging.get_absl_handler()
  handler.addFilter(lambda record: not ('orbax' in record.pathname and is_noise(record)))


def is_noise(record) -> bool:
  """Whether a message of Orbax is a traceback, or misses a file that it does not need."""
  return bool(record.exc_info) or 'Metadata file does not exist' in record.getMessage()


def folder(value: str, flag: str) -> Path:
  """The folder that a flag names, to be written.

  Raises:
    UserError: it is the address of a bucket, or cannot be written.
  """
  if '://' in value:
    raise UserError(
      f'--{flag}={value} is the address of a bucket, and only folders are written: mount the '
      'bucket, for example with gcsfuse, and give the folder that it is mounted at.'
    )
  if reason := files.unwritable(Path(value)):
    raise UserError(f'--{flag}={value} cannot be written: {reason}.')
  return Path(value)


def define_config(*, required: bool = True) -> None:
  """Defines --config, and every field of it as --config.FIELD."""
  config_flags.DEFINE_config_file(
    'config',
    None,
    "The experiment: a file, or one that ships by its name, with options after a colon: 'depth', "
    "'depth:tiny', 'configs/depth.py:small,method=finetune'. --config.FIELD=VALUE sets a field.",
  )
  if required:
    flags.mark_flag_as_required('config')


def define_processes() -> None:
  """Defines the flags of a command that several hosts run together."""
  flags.DEFINE_bool('distributed', False, 'Joins the processes that run this on other hosts.')
  flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0; found on TPU pods.')
  flags.DEFINE_integer('num_processes', None, 'How many processes there are.', lower_bound=1)
  flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0 on.', lower_bound=0)


def join_processes() -> None:
  """Joins the other processes, if the flags of `define_processes` say so (`hosts.join`)."""
  place = FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id
  if FLAGS.distributed or place != (None, None, None):
    hosts.join(*place)


def parse(arguments: list[str]) -> list[str]:
  """The flags; a mistake in them is one line that names it and the choices."""
  try:
    return FLAGS(resolved(arguments))
  except (UserError, flags.Error) as error:
    return sys.exit(f'error: {error}')


def resolved(arguments: list[str]) -> list[str]:
  """The arguments with the config's path in place of its name, all fields known to exist.

  Raises:
    UserError: there is no such config, option or field; ml_collections would say less.
  """
  given = re.search(r'(?:^|\n)--?config[=\n]([^\n]*)', '\n'.join(arguments))
  if not given:
    return arguments
  name, colon, option = given[1].partition(':')
  path = find(name)
  config = load(path, option if colon else None)
  for argument in arguments:
    if field := re.match(r'--?(?:no)?config[.]([^=]*)(?:=(.*))?', argument):
      check_value(*check_field(config, field[1].split('.')), field[2], argument)
  return [replaced(argument, given[1], f'{path}{colon}{option}') for argument in arguments]


def replaced(argument: str, old: str, new: str) -> str:
  """`--config=OLD`, or the OLD that follows `--config`, with NEW in its place."""
  match = re.fullmatch(rf'((?:--?config=)?){re.escape(old)}', argument)
  return match[1] + new if match else argument


def find(name: str) -> Path:
  """The file of a config: at that path, or the one of that name that ships.

  Raises:
    UserError: there is none.
  """
  if name.endswith('.py') and Path(name).is_file():
    return Path(name)
  path = CONFIGS / (Path(name).name.removesuffix('.py') + '.py')
  # Another folder's file that is missing must not become the one of its name that ships.
  if str(Path(name).parent) in ('.', 'configs') and is_config(path):
    return path
  raise UserError(f'There is no config {name!r}; choose one of {shipped()}, or write one.')


def shipped() -> list[str]:
  """The names of the configs that ship."""
  return sorted(path.stem for path in CONFIGS.glob('*.py') if is_config(path))


def is_config(path: Path) -> bool:
  """Whether a file is there and makes a config."""
  return path.is_file() and 'def get_config' in path.read_text()


def load(path: Path, option: str | None = None) -> ConfigDict:
  """The config of a file.

  Raises:
    UserError: the file is no config, or there is no such option.
  """
  make_importable()
  try:
    make = runpy.run_path(str(path)).get('get_config')
  except (SyntaxError, ImportError, NameError) as error:
    raise UserError(f'{path} cannot be read as a config: {error}') from error
  if make is None:
    raise UserError(f'{str(path)!r} is not a config: it has no function `get_config`.')
  try:
    return make() if option is None else make(option)
  except ValueError as error:
    raise UserError(str(error)) from error


def make_importable() -> None:
  """Lets configs import what they share as `configs.NAME`, from wherever the package lies."""
  if 'configs' in sys.modules or importlib.util.find_spec('configs'):
    return
  package = types.ModuleType('configs')
  package.__path__ = [str(CONFIGS)]
  sys.modules['configs'] = package


def check_field(config: ConfigDict, names: list[str]) -> tuple[Any, type]:
  """(value, type) of a field; a UserError names one that is unknown."""
  kind = None
  for depth, name in enumerate(names):
    where = '.'.join(['config', *names[:depth]])
    if not isinstance(config, ConfigDict):
      raise UserError(f'{where} is {config!r}, which has no fields; {name!r} was asked for.')
    if name not in config:
      raise UserError(f'Unknown field {name!r} of {where}; choose one of {sorted(config)}.')
    config, kind = config[name], config.get_type(name)
  return config, kind


def check_value(before: Any, kind: type, text: str | None, argument: str) -> None:
  """A UserError if a text is not what a number, or a field of any type, is replaced with."""
  parse = {int: int, float: float, object: ast.literal_eval}.get(kind)
  if text is None or parse is None:
    return
  try:
    parse(text)
  except (ValueError, SyntaxError):
    what = 'a number or a tuple' if kind is object else named(kind)
    raise UserError(f'{argument}: it must be {what}, as {before} is.') from None
