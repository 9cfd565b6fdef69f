import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PROGRAMS = 'gcloud kubectl sbatch srun squeue scancel scontrol xpk ssh-add sleep python'
ON_A_HOST = 'curl uv sudo gcsfuse lsb_release python'
# Of which nothing is recorded; the bucket that is mounted is a file in the home of the host.
SMALL = {
  'hostname': 'echo "$HOST"',
  'mountpoint': 'test -e ~/mounted',
  'findmnt': 'cat ~/mounted',
}


class Done(NamedTuple):
  """How a command ended."""

  code: int
  out: str
  err: str

  @property
  def said(self) -> list[str]:
    """The lines of its output, without the times."""
    return [re.sub(r'^\[[0-9:]+\] ', '', line) for line in self.out.splitlines()]


class Cloud:
  """A small checkout with the launchers, and programs that stand in for Google's and Slurm's."""

  def __init__(self, folder: Path, slices: Path):
    self.folder, self.root, self._slices = folder / 'cloud', folder / 'checkout', slices
    for name, programs in dict(bin=PROGRAMS, host=ON_A_HOST).items():
      (self.folder / name).mkdir(parents=True)
      for program in programs.split():
        path = self.folder / name / program
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {HERE}/standin.py {program} "$@"\n')
        path.chmod(0o755)
    for program, line in SMALL.items():
      path = self.folder / 'host' / program
      path.write_text(f'#!/bin/sh\n{line}\n')
      path.chmod(0o755)
    self.home = folder / 'home'
    (self.home / '.ssh').mkdir(parents=True)
    shutil.copytree(ROOT / 'launch', self.root / 'launch')
    (self.root / '.gitignore').write_text('runs/\n')
    git = ('git', '-c', 'user.name=a', '-c', 'user.email=a@b', '-C', self.root)
    subprocess.run([*git, 'init', '-q'], check=True)
    subprocess.run([*git, 'add', '.'], check=True)
    subprocess.run([*git, 'commit', '-qm', 'first'], check=True)

  def environment(self, **more) -> dict[str, str]:
    path = f'{self.folder / "bin"}:/usr/bin:/bin'
    return dict(HOME=str(self.home), PATH=path, STANDIN=str(self.folder), **more)

  def run(self, *words, **more) -> Done:
    """Runs `bash WORDS...` at the top of the checkout."""
    done = subprocess.run(
      ['bash', *map(str, words)],
      cwd=self.root,
      env=self.environment(**more),
      capture_output=True,
      text=True,
      timeout=300,
    )
    return Done(done.returncode, done.stdout, done.stderr)

  def tpu(self, action: str, *words, **more) -> Done:
    return self.run('launch/tpu.sh', action, '--name=depth', *words, **more)

  def write(self, name: str, text: str) -> None:
    path = self.folder / name
    path.write_text(text)
    path.chmod(0o755)

  def calls(self, program: str = '') -> list[list[str]]:
    """The calls so far, of one program or of all."""
    path = self.folder / 'calls.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    calls = [json.loads(line)['call'] for line in lines]
    return [call for call in calls if program in ('', call[0])]

  def forget(self) -> None:
    (self.folder / 'calls.jsonl').unlink(missing_ok=True)

  def home_of(self, number: int) -> Path:
    """The home of a host of the slice."""
    return self.folder / 'slice' / f'w{number}'

  def ready(self, kind: str = 'v5p-16') -> None:
    """Has a slice with its hosts set up, of two hosts if not said otherwise."""
    made = self._slices / kind
    if not made.exists():
      for done in (self.tpu('create', f'--type={kind}'), self.tpu('setup', '--bucket=pictures')):
        assert done.code == 0, done
      shutil.copytree(self.folder / 'slice', made, symlinks=True)
    elif not (self.folder / 'slice').exists():
      shutil.copytree(made, self.folder / 'slice', symlinks=True)
    self.forget()


@pytest.fixture(scope='session')
def slices(tmp_path_factory):
  """A folder of slices that are set up, which tests copy."""
  return tmp_path_factory.mktemp('slices')


@pytest.fixture(scope='session')
def new_cloud(slices):
  """Makes a Cloud in a folder."""
  return functools.partial(Cloud, slices=slices)


@pytest.fixture
def cloud(tmp_path, new_cloud):
  made = new_cloud(tmp_path)
  yield made
  for file in made.folder.glob('slice/w*/cdd-run/child'):
    subprocess.run(['kill', '-KILL', file.read_text().split()[0]], capture_output=True)
