"""The commands of launch/README.md, copied out of the page, run in order against the stand-ins."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cdd import convert, main, prepare, sample
from cdd.core import cli

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'launch' / 'README.md').read_text()
MODULES = {'cdd.main': main, 'cdd.prepare': prepare, 'cdd.sample': sample, 'cdd.convert': convert}

# As the page asks of its reader: until what runs on the hosts has ended.
WAITS = """waits() {
  for run in "$STANDIN"/slice/w*/cdd-run; do
    while [[ -e $run/pid && ! -e $run/code ]]; do /bin/sleep 0.05; done
  done
}"""


def blocks() -> list[str]:
  return re.findall(r'^```sh\n(.*?)^```$', PAGE, re.M | re.S)


@pytest.fixture(scope='module')
def done(tmp_path_factory, new_cloud):
  """(the stand-ins, what each block printed) after all blocks in one shell; an error ends it."""
  cloud = new_cloud(tmp_path_factory.mktemp('readme'))
  (cloud.root / 'photos').mkdir()
  logs = cloud.root / 'runs' / 'slurm'
  logs.mkdir(parents=True)
  for name in ('cdd_4242.txt', 'cdd_4242_task_0.txt'):
    (logs / name).write_text('a line\n')
  # Slurm's part installs the package, which is not for this test to do.
  fake = cloud.folder / 'bin' / 'python3'
  fake.write_text('#!/bin/sh\nmkdir -p .venv/bin && cp /bin/true .venv/bin/pip\n')
  fake.chmod(0o755)
  parts = (f'waits\necho "== {number}"\n{block}' for number, block in enumerate(blocks()))
  script = '\n'.join((WAITS, *parts))
  ran = subprocess.run(
    ['bash', '-euo', 'pipefail', '-c', script],
    cwd=cloud.root,
    env=cloud.environment(),
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert ran.returncode == 0, (ran.stdout[-3000:], ran.stderr[-3000:])
  return cloud, re.split(r'^== \d+\n', ran.stdout, flags=re.M)[1:]


def test_every_command_runs_in_order(done):
  _, printed = done
  assert len(printed) == len(blocks()) >= 8


def test_the_slice_is_made_trained_on_and_deleted(done):
  cloud, printed = done
  said = ''.join(printed)
  for line in (
    'depth is ACTIVE.',
    'jax 0.10.2 finds 16 tpu devices on 4 hosts.',
    'depth: finished',
    'No TPU is left in this zone, and no bucket in this project.',
  ):
    assert line in said
  trained = [call[1:3] for call in cloud.calls('python') if call[1] == '-m']
  assert trained.count(['-m', 'cdd.main']) >= 4 and trained.count(['-m', 'cdd.prepare']) == 4


def test_nothing_is_left_that_costs_money(done):
  """Of what was made in the project, each thing was deleted again."""
  cloud, _ = done
  assert not (cloud.folder / 'slice').exists()
  assert not list((cloud.folder / 'buckets').iterdir())
  assert not list((cloud.folder / 'clusters').iterdir())
  lines = [shlex.join(call) for call in cloud.calls('gcloud')]
  for kind in ('queued-resources', 'clusters', 'artifacts repositories', 'projects'):
    of_kind = [line for line in lines if f'{kind} create' in line or f'{kind} delete' in line]
    assert len(of_kind) == 2 * len([line for line in of_kind if 'create' in line]), of_kind


def test_the_commands_of_cdd_have_the_flags_that_the_page_gives_them(done):
  cloud, _ = done
  given = {}
  for call in cloud.calls('python') + cloud.calls('sbatch'):
    if 'python' in call and '-m' in call:
      module, *words = call[call.index('-m') + 1 :]
      given.setdefault(module, set()).update(re.match(r'--([\w.]+)', word)[1] for word in words)
  assert given.keys() == MODULES.keys()
  for module, names in given.items():
    text = Path(MODULES[module].__file__).read_text()
    text += Path(cli.__file__).read_text()
    assert not {name for name in names if f"'{name}'" not in text}, module


def test_what_the_page_names_is_there():
  for target in re.findall(r'\]\(([^)#]+)[^)]*\)', PAGE):
    assert target.startswith('https://') or (ROOT / 'launch' / target).exists(), target
  for path in re.findall(r'`?(launch/[\w.]+)', PAGE):
    assert (ROOT / path).exists(), path
