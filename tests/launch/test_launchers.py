"""What holds for every script of launch/: its style, its flags, and the table of TPU slices."""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdd.runs import topologies

LAUNCH = Path(__file__).parents[2] / 'launch'
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in ('.sh', '.sbatch'))
COMMANDS = ('tpu.sh', 'gke.sh', 'slurm.sh')


def table():
  lines = (LAUNCH / 'accelerators.txt').read_text().splitlines()
  return [line.split() for line in lines if not line.startswith('#')]


def sourced(script: str) -> str:
  """Runs lines of bash with launch/common.sh."""
  done = subprocess.run(
    ['bash', '-euc', f'. {LAUNCH}/common.sh; help() {{ :; }}; {script}'],
    capture_output=True,
    text=True,
  )
  return done.stdout + done.stderr


def test_shellcheck_finds_nothing():
  checker = shutil.which('shellcheck', path=str(Path(sys.executable).parent)) or 'shellcheck'
  done = subprocess.run(
    [checker, '--external-sources', '--severity=style', *SCRIPTS],
    cwd=LAUNCH.parent,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0 and len(SCRIPTS) >= 7, done.stdout


def test_what_runs_on_a_laptop_keeps_to_bash_3():
  """What macOS has knows none of these."""
  newer = r'mapfile|readarray|declare -A|local -n|wait -n|;;&|\$\{\w+(@Q|,,|\^\^)|&>>|\|&'
  for script in SCRIPTS:
    assert not re.search(newer, script.read_text()), script
    assert script.stat().st_mode & 0o100 or script.name in ('common.sh', 'slice.sh'), script


@pytest.mark.parametrize('name', COMMANDS)
def test_help_lists_every_command_and_every_flag(name):
  said = subprocess.run([LAUNCH / name, '--help'], capture_output=True, text=True)
  assert said.returncode == 0 and not said.stderr
  text = (LAUNCH / name).read_text()
  lists = dict(re.findall(r"(\w+)=(?:'([a-z_ ]+)')", text))
  flags = set()
  for valued, switches in re.findall(
    r'parse ("[^"]*"|\'[^\']*\'|\w+) (\'[^\']*\'|\w+) "\$@"', text
  ):
    words = re.sub(r'\$(\w+)', lambda match: lists[match[1]], f'{valued} {switches}'.strip())
    flags |= set(re.findall(r'\w+', words))
  assert flags and not {flag for flag in flags if f'--{flag}' not in said.stdout}
  documented = set(re.findall(r'^  --(\w+)', said.stdout, re.M)) - {'help', 'dry_run'}
  assert documented == flags
  listed = re.findall(r'^  ([a-z]+)  ', said.stdout.partition('Flags of all')[0], re.M)
  (choices,) = re.findall(r"Unknown command '\$action'; choose among ([^\"]*)\.\"", text)
  assert listed == choices.replace(' and ', ', ').split(', ')


def test_the_table_of_slices_is_consistent():
  runtimes = dict(v5e='v2-alpha-tpuv5-lite', v5p='v2-alpha-tpuv5', v6e='v2-alpha-tpuv6e')
  labels = dict(v5e='tpu-v5-lite-podslice', v5p='tpu-v5p-slice', v6e='tpu-v6e-slice')
  names = dict(v5e='v5litepod', v5p='v5p', v6e='v6e')
  rows = table()
  assert len(rows) == len({row[0] for row in rows}) == len({row[1] for row in rows})
  for name, plan, chips, hosts, runtime, label, machine in rows:
    kind, topology = plan.split(':')
    chips, hosts = int(chips), int(hosts)
    # The planner takes either name for the same slice.
    assert topologies.named(name) == topologies.named(plan) == (kind, topology)
    assert chips == math.prod(map(int, topology.split('x')))
    assert name == f'{names[kind]}-{2 * chips if kind == "v5p" else chips}'
    assert chips == hosts * int(re.search(r'-(\d)t$', machine)[1])
    assert runtime == runtimes[kind] and label == labels[kind]
    # Google's larger slices are of hosts with four chips each.
    assert hosts == 1 or chips == 4 * hosts


@pytest.mark.parametrize('name', ['v5litepod-16', 'v5e-16', 'v5e:4x4'])
def test_a_slice_has_googles_name_and_that_of_the_planner(name):
  said = sourced(f'slice {name}; echo $accelerator $topology $chips $hosts $runtime')
  assert said == 'v5litepod-16 4x4 16 4 v2-alpha-tpuv5-lite\n'


def test_every_argument_survives_quoting():
  odd = ['', 'a b', "it's", '"', '$x', '`id`', '\\', '*', 'ä', 'a\nb', '#', '~', '--f={x}', '!']
  words = ' '.join("'" + word.replace("'", "'\\''") + "'" for word in odd)
  said = sourced(f'line=$(quoted {words}); eval "printf \'<%s>\' $line"')
  assert said == ''.join(f'<{word}>' for word in odd)


def test_what_is_installed_is_what_setup_cfg_offers():
  text = (LAUNCH.parent / 'setup.cfg').read_text()
  oldest, newest = re.search(r'python_requires = >=3.(\d+), <3.(\d+)', text).groups()
  tpu, docker = (LAUNCH / 'tpu.sh').read_text(), (LAUNCH / 'Dockerfile').read_text()
  extras = re.search(r' extras=([a-z,]+)', tpu)[1]
  assert f'.[{extras}]' in docker
  for extra in extras.split(','):
    assert re.search(rf'^{extra} =$', text, re.M)
  versions = {re.search(r' python=3\.(\d+)', tpu)[1], re.search(r'python:3\.(\d+)', docker)[1]}
  assert len(versions) == 1 and int(oldest) <= int(*versions) < int(newest)
