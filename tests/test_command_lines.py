"""The command lines: what they print, where they find configs, and how they answer mistakes."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import commands
import pytest
import tiny

from cdd.core import cli
from cdd.core.errors import UserError

# Lines of cdd.main that are wrong, and what the answer names.
WRONG = [
  (
    ['--config=nonsense'],
    "'nonsense'; choose one of ['canny', 'depth', 'inpaint'",
  ),
  (['--config=depth:tiny', '--config.stpes=3'], "'stpes'"),
  (['--config=depth:tiny', '--config.steps=many'], '=many: it must be'),
  (['--config=instruct_edit'], "There is no image folder 'data/instruct_edit/train'"),
  (['--config=depth:tiny', '--config.prior.path=nowhere'], "'nowhere'"),
  (['--config=depth:tiny', 'steps=3'], "'steps=3'"),
  (['--stpes=3'], "'stpes'"),
  (['--config=elsewhere/depth.py'], "'elsewhere/depth.py'; choose one of"),
  (['--config=depth:tiny,small'], "'size' is given twice"),
  (['--config=depth:tiny,method'], "'method' in 'tiny,method' has no value; choose one of"),
  (['--config=depth:tiny', '--config.steps=abc'], 'abc: it must be a whole number, as 200 is'),
  (['--config=depth:tiny', '--config.optimizer.clip=x'], 'clip=x: it must be a number, as 1.0'),
  (['--config=depth:tiny', '--config.steps.x=3'], "config.steps is 200, which has no fields; 'x'"),
  ([], '--config'),
  (
    ['--config=depth:tiny', '--workdir=gs://bucket/run'],
    '--workdir=gs://bucket/run is the address',
  ),
  (['--config=depth:tiny', '--coordinator=there'], '--coordinator=there is not HOST:PORT'),
  (['--config=depth:tiny', '--distributed', '--num_processes=2'], 'Give --coordinator=HOST:PORT'),
]
# Other commands that write a folder.
BUCKETS = [
  ['cdd.convert', '--source=packaged', '--target=s3://bucket/model'],
  ['cdd.sample', '--out=gs://bucket/samples'],
  ['cdd.evaluate', '--model=packaged:depth', '--out=gs://bucket/evaluation'],
]
# Lines of other commands that are wrong, and what the answer names.
OTHERS = [
  (['cdd.convert', '--source=nowhere', '--target=out'], "no pretrained model at 'nowhere'"),
  (['cdd.evaluate', '--model=packaged'], 'packaged says nothing of held-out examples: give --con'),
  (['cdd.evaluate'], '--model'),
  (['cdd.evaluate', '--model=nowhere', '--config=depth:tiny'], "no pretrained model at 'nowhere'"),
  (['cdd.evaluate', '--model=packaged:dept'], "'dept'; choose one of ['depth'"),
  (
    ['cdd.evaluate', '--model=packaged', '--config=depth:tiny'],
    'packaged reads no condition, and the examples of depth_tiny have one',
  ),
  (['cdd.evaluate', '--model=packaged:depth', '--sampler=x'], "'x'; choose one of ['ancestral'"),
  (
    ['cdd.evaluate', '--model=packaged:depth', '--adapter=x'],
    'packaged:depth is a trained model with its adapter; leave --adapter out',
  ),
  (
    ['cdd.evaluate', '--model=packaged:depth', '--config=super_resolution:tiny'],
    "was trained for the task 'depth', and super_resolution_tiny is of 'super_resolution'",
  ),
  (['cdd.compare', 'nowhere'], 'Two runs or more are compared'),
  (['cdd.compare', 'a', 'b'], 'a is no run'),
]
# The flags of each command that its help shows first.
HELP = {
  'cdd.main': [
    *('config', 'coordinator', '[no]distributed', 'num_processes', '[no]print_config'),
    *('process_id', 'workdir'),
  ],
  'cdd.plan': ['compare', 'config', 'family', 'json', '[no]largest_batch', 'program'],
  'cdd.evaluate': ['adapter', 'adapter_end', 'adapter_start', 'adapter_strength', 'batch_size'],
  'cdd.compare': ['out'],
  'cdd.sample': ['adapter', 'adapter_end', 'adapter_start', 'adapter_strength', 'condition'],
  'cdd.convert': ['adapter', 'dtype', 'max_shard_size', '[no]overwrite', 'prior', 'source'],
}
PRINTED = ['--config=depth:tiny', '--config.steps=7', '--config.method.dt=20', '--print_config']


@pytest.fixture(scope='module')
def said(tmp_path_factory):
  """What every command line of this file says in an empty folder, which is to stay empty."""
  folder = tmp_path_factory.mktemp('empty')
  lines = [['cdd.main', *words] for words, _ in WRONG] + [['cdd.main', *PRINTED]]
  lines += [[module, '--help'] for module in HELP]
  lines += [line for line, _ in OTHERS]
  done = commands.run(lines + BUCKETS, cwd=folder)
  assert not list(folder.iterdir())
  done, buckets = done[: len(lines)], done[len(lines) :]
  wrong, (printed, *helps) = done[: len(WRONG)], done[len(WRONG) :]
  helps, others = helps[: len(HELP)], helps[len(HELP) :]
  helps = dict(zip(HELP, helps, strict=True))
  return SimpleNamespace(wrong=wrong, printed=printed, helps=helps, others=others, buckets=buckets)


def test_a_mistake_is_answered_in_one_line_without_a_traceback(said):
  for done, (_, message) in zip(said.wrong + said.others, WRONG + OTHERS, strict=True):
    (line,) = done.err.splitlines()
    assert done.code == 1 and line.startswith('error: ') and message in line


def test_no_command_takes_the_address_of_a_bucket_for_a_folder(said):
  for done in said.buckets:
    (line,) = done.err.splitlines()
    assert done.code == 1 and 'mount the bucket, for example with gcsfuse' in line


def test_a_config_is_found_by_name_and_printed_whole_with_what_was_overridden(said):
  assert said.printed.code == 0 and not said.printed.err
  printed = json.loads(said.printed.out)
  config = cli.load(tiny.ROOT / 'configs/depth.py', 'tiny')
  config.steps, config.method.dt = 7, 20
  assert printed == json.loads(json.dumps(config.to_dict()))  # Tuples are lists.


@pytest.mark.parametrize('module', HELP)
def test_the_help_shows_the_flags_of_a_command_and_its_config_first(module, said):
  done = said.helps[module]
  assert re.findall(r'^  --([^:\s]+):', done.out, re.M)[: len(HELP[module])] == HELP[module]
  assert f'python -m {module}' in done.out and not done.err


def test_importing_sampling_sets_nothing_of_the_process():
  code = (
    'import os; before = dict(os.environ); import jax; cache = jax.config.jax_compilation_cache_dir'
    '; import cdd.sampling; assert dict(os.environ) == before; '
    'assert jax.config.jax_compilation_cache_dir == cache; '
    'from jax._src import xla_bridge; assert not xla_bridge._backends'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=tiny.ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config=configs/dept.py'], r"no config 'configs/dept.py'; choose one of \['canny', "),
    (['--config', 'configs/depth.py:tinny'], r"Unknown size 'tinny'; choose one of \['full'"),
    (['--config=depth:tiny,method=x'], r"Unknown method 'x'; choose one of \['cond"),
    (['--config=depth:tiny,methd=x'], r"Unknown option 'methd' in .*choose from"),
    (['--config=depth:tiny,data='], "'data' in 'tiny,data=' has no value; give a folder"),
    (['--config=canny:prepared'], "'prepared' in 'prepared' has no value; give a folder"),
    (['--config=depth:tiny,data=a,b'], r"Unknown size 'b'; .*A comma ends the name of a folder"),
    (['--config=depth:tiny,'], r"Unknown size ''; choose one of .*'tiny'\]\.$"),
    (['--config=pretrain:x'], r"Unknown stage 'x'; choose one of \['autoencoder'"),
    (['--config=configs/common.py'], r"'configs/common.py' is not a config"),
    (
      ['--config=depth:tiny', '--config.optimizer.rate=1'],
      r"Unknown field 'rate' of config.optimizer; choose one of \['clip', .*'learning_rate'",
    ),
    (['--config=depth:tiny', '--config.stpes', '3'], r"Unknown field 'stpes' of config;"),
  ],
)
def test_what_a_command_line_names_wrongly_is_said_with_the_choices(
  arguments, message, monkeypatch
):
  monkeypatch.chdir(tiny.ROOT)
  with pytest.raises(UserError, match=message):
    cli.resolved(['main', *arguments])


@pytest.mark.parametrize('below', ['', '/run', '/a/b'])
def test_a_folder_to_write_that_is_a_file_or_below_one_is_named(below, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(
    UserError, match=f'--out=.*file{below} cannot be written: .*file is no folder'
  ):
    cli.folder(f'{tmp_path}/file{below}', 'out')
  assert cli.folder(f'{tmp_path}/new/one', 'out') == tmp_path / 'new/one'


def test_a_file_of_ones_own_is_a_config_and_stays_what_it_was_called(tmp_path, monkeypatch):
  (tmp_path / 'depth.py').write_text('from configs.depth import get_config')
  monkeypatch.chdir(tmp_path)
  found = lambda *words: cli.resolved(['main', *words])[1:]
  assert found('--config=depth.py:tiny', '--config.steps=3') == [
    '--config=depth.py:tiny',
    '--config.steps=3',
  ]
  (ours,) = found('--config=depth:tiny')
  assert ours.endswith('configs/depth.py:tiny')
  assert found('--config', 'depth')[1] == ours.removeprefix('--config=').removesuffix(':tiny')
