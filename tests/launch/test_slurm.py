"""launch/slurm.sh and its batch script against stand-ins of Slurm; their tasks really run."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = ('python', '-m', 'cdd.main', '--config=depth', '--distributed')


def slurm(cloud, *words):
  return cloud.run('launch/slurm.sh', *words)


def batch(cloud, *command, tasks=2, **more):
  """Runs the batch script as Slurm does on the first host of a job."""
  (cloud.folder / 'logs').mkdir(exist_ok=True)
  settings = dict(SLURM_JOB_ID='4242', SLURM_NTASKS=str(tasks), SLURM_CPUS_PER_TASK='3')
  settings |= dict(CDD_LOGS=str(cloud.folder / 'logs'))
  return cloud.run('launch/job.sbatch', *command, **settings, **more)


def log(cloud, task):
  return (cloud.folder / 'logs' / f'cdd_4242_task_{task}.txt').read_text()


def test_a_run_is_one_process_per_gpu(cloud):
  words = ('--nodes=2', '--gpus=4', '--time=12:00:00', '--partition=gpu', '--account=lab')
  done = slurm(cloud, 'run', *words, '--', *TRAIN, 'a b')
  assert done.code == 0 and done.out == '4242\n', done
  logs = cloud.root / 'runs' / 'slurm'
  assert cloud.calls('sbatch') == [
    ['sbatch', '--parsable', '--job-name=cdd', f'--export=ALL,CDD_LOGS={logs}', '--nodes=2']
    + ['--ntasks-per-node=4', '--gpus-per-node=4', '--cpus-per-task=8', '--time=12:00:00']
    + ['--partition=gpu', '--account=lab', f'--output={logs}/%x_%j.txt']
    + [f'{cloud.root}/launch/job.sbatch', *TRAIN, 'a b']
  ]
  assert logs.is_dir()


def test_the_batch_script_is_signalled_in_time_and_may_be_requeued(cloud):
  lines = (cloud.root / 'launch' / 'job.sbatch').read_text().splitlines()
  options = [line.split()[1] for line in lines if line.startswith('#SBATCH')]
  # Without B: the signal goes to the processes and not to the script.
  assert options == ['--signal=TERM@600', '--requeue', '--open-mode=append']


@pytest.mark.parametrize(
  ('codes', 'state', 'requeued'),
  [
    ('0 0', 'RUNNING', False),
    ('75 75', 'RUNNING', True),
    ('75 1', 'RUNNING', True),
    ('143 143', 'RUNNING', True),
    ('1 1', 'RUNNING', False),
    ('75 75', 'CANCELLED', False),
    ('75 75', 'PENDING', False),
  ],
)
def test_a_job_that_resumes_is_requeued_unless_it_was_cancelled(cloud, codes, state, requeued):
  cloud.write('job', state)
  line = f'codes=({codes}); echo task $SLURM_PROCID; exit ${{codes[$SLURM_PROCID]}}'
  done = batch(cloud, 'bash', '-c', line)
  worst = max(map(int, codes.split()))
  assert done.code == worst and f'Ended with exit code {worst} after 1 starts.' in done.out, done
  assert (['scontrol', 'requeue', '4242'] in cloud.calls('scontrol')) == requeued
  assert [log(cloud, task) for task in range(2)] == ['task 0\n', 'task 1\n']
  (call,) = cloud.calls('srun')
  assert {'--kill-on-bad-exit=0', '--gpu-bind=none', '--open-mode=append'} <= set(call)


def test_the_processes_of_a_job_join_without_settings(cloud):
  """Of what Slurm sets, jax makes the coordinator, the count and the index."""
  line = (
    'import jax; from cdd.core import hosts; hosts.join(None, None, None); '
    'print(jax.process_index(), jax.process_count(), jax.device_count())'
  )
  port = 65535 - 2**12 + 1 + 4242 % 2**12  # As jax derives it.
  done = batch(cloud, sys.executable, '-c', line, PYTHONPATH=str(ROOT), JAX_PLATFORMS='cpu')
  assert done.code == 0, (done, port, log(cloud, 0))
  said = [log(cloud, task).splitlines()[-1] for task in range(2)]
  assert said == ['0 2 2', '1 2 2']


def test_a_virtual_environment_beside_the_checkout_is_used(cloud):
  binaries = cloud.root / '.venv' / 'bin'
  binaries.mkdir(parents=True)
  (binaries / 'python').write_text('#!/bin/sh\necho "of the environment: $*"\n')
  (binaries / 'python').chmod(0o755)
  assert batch(cloud, *TRAIN, tasks=1).code == 0
  assert log(cloud, 0) == f'of the environment: {shlex.join(TRAIN[1:])}\n'


def test_status_logs_and_stop(cloud):
  logs = cloud.root / 'runs' / 'slurm'
  logs.mkdir(parents=True)
  for name in ('cdd_7.txt', 'cdd_7_task_0.txt', 'cdd_7_task_1.txt'):
    (logs / name).write_text(f'of {name}\n')
  assert slurm(cloud, 'logs', '--job=7', '--task=1').out == 'of cdd_7_task_1.txt\n'
  assert 'of cdd_7.txt' in slurm(cloud, 'status', '--job=7').out
  assert slurm(cloud, 'stop', '--job=7').code == 0
  # Requeueing is off before the processes are told to save.
  assert [call for call in cloud.calls() if call[0] in ('scontrol', 'scancel')] == [
    ['scontrol', 'update', 'JobId=7', 'Requeue=0'],
    ['scancel', '--signal=TERM', '7'],
  ]


def test_dry_run_prints_the_command_and_submits_nothing(cloud):
  dry = slurm(cloud, 'run', '--nodes=2', '--dry_run', '--', *TRAIN)
  assert slurm(cloud, 'run', '--nodes=2', '--', *TRAIN).code == 0
  (call,) = cloud.calls('sbatch')
  assert shlex.split(dry.out.splitlines()[-1]) == call


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (('run',), 'The command to run is missing; it follows --.'),
    (('run', '--', 'python', '-m', 'cdd.main'), '8 processes run this command: add --distributed'),
    (('run', '--nodes=two', '--', 'ls'), '--nodes=two is not a number.'),
    (('run', '--logs=a,b', '--', 'ls'), '--logs=a,b has a comma, which sbatch splits at.'),
    (('logs',), '--job is needed.'),
    (('start',), "Unknown command 'start'; choose among run"),
  ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cloud, words, said):
  done = slurm(cloud, *words)
  assert done.code == 2 and not cloud.calls(), done
  assert done.err.startswith(f'error: {said}') and done.err.count('\n') == 1


def test_the_batch_script_needs_no_program_but_slurms_and_bash(cloud):
  done = subprocess.run(
    ['bash', cloud.root / 'launch' / 'job.sbatch', 'true'],
    cwd=cloud.root,
    env=dict(cloud.environment(), CDD_LOGS=os.devnull),
    capture_output=True,
    text=True,
  )
  assert done.returncode != 0  # No job is here: it fails rather than seeming to run.
