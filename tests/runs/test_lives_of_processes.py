"""Two processes of `cdd.main` stop together, whoever is told, and end with one that dies."""

import json
import signal
import subprocess
import sys
import time

import pytest
import tiny
from test_several_processes import free_port

from cdd.training import checkpoint


class Pair:
  """Two processes that train together, and what to do with them."""

  def __init__(self, prior, workdir):
    address, self.workdir = f'localhost:{free_port()}', workdir
    self.began = time.time()
    self.before = checkpoint.newest(workdir / 'checkpoints') or 0
    start = lambda rank: tiny.command(
      '--config=depth:tiny',
      f'--workdir={workdir}',
      f'--config.prior.path={prior}',
      '--config.steps=100000',
      '--config.optimizer.name=adamw',
      '--config.data.batch_size=4',
      '--config.mesh.data=1',
      '--config.mesh.fsdp=-1',
      f'--config.data.source.size={tiny.SIZE}',
      f'--config.data.held_out.size={tiny.SIZE}',
      '--config.evaluation.shipped=()',
      '--config.log.every=1',
      '--config.log.samples_every=0',
      '--config.log.checkpoint_every=100000',
      f'--coordinator={address}',
      '--num_processes=2',
      f'--process_id={rank}',
      JAX_NUM_CPU_DEVICES='2',
    )
    self.processes = [start(rank) for rank in range(2)]

  def wait(self):
    """Until a few steps are made."""
    log, deadline = self.workdir / 'log.jsonl', time.monotonic() + 300
    while True:
      # Before it is rewritten it is that of the run before.
      ours = log.exists() and log.stat().st_mtime > self.began
      lines = log.read_text().splitlines() if ours else []
      if lines and lines[-1].endswith('}') and json.loads(lines[-1])['step'] > self.before + 3:
        return
      for process in self.processes:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
      time.sleep(0.05)

  def end(self):
    """[(exit code, standard output, standard error)], and the seconds that it took."""
    began = time.monotonic()
    return [tiny.finish(p, timeout=100) for p in self.processes], time.monotonic() - began


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('lives') / 'run'


# Which process gets the signal, or the seconds between both.
@pytest.mark.parametrize(
  ('number', 'told', 'apart'),
  [(signal.SIGTERM, [1], 0), (signal.SIGTERM, [0, 1], 0.4), (signal.SIGINT, [0], 0)],
  ids=['one', 'both', 'ctrl_c'],
)
def test_both_save_the_same_step_and_leave(number, told, apart, prior, workdir):
  pair = Pair(prior, workdir)
  pair.wait()
  for rank in told:
    pair.processes[rank].send_signal(number)
    time.sleep(apart)
  ended, seconds = pair.end()
  assert [code for code, _, _ in ended] == [75, 75] and seconds < 60, ended
  (line,) = [line for line in ended[0][1].splitlines() if 'Stopped after step' in line]
  assert f'Stopped after step {checkpoint.newest(workdir / "checkpoints")};' in line
  assert checkpoint.newest(workdir / 'checkpoints') > pair.before
  assert (number == signal.SIGINT) == ('Stopping: this step is saved' in ended[0][2])
  assert not any('Traceback' in errors for _, _, errors in ended)


@pytest.mark.parametrize('dies', [1, 0])
def test_a_process_that_dies_ends_the_other_which_says_so(dies, prior, workdir):
  pair = Pair(prior, workdir)
  pair.wait()
  pair.processes[dies].kill()
  ended, seconds = pair.end()
  code, _, errors = ended[1 - dies]
  assert code != 0 and seconds < 60, ended
  # Jax itself, which may be first, calls process 0 the leader.
  said = ('gave no sign of life', '[1]') if dies else ('coordinat',)
  assert all(word in errors for word in said), errors


def test_sigterm_ends_the_encoding_of_examples_also_where_processes_were_joined(prior, tmp_path):
  folder, source = tmp_path / 'prepared', f'--config.data.source.size={tiny.SIZE}'
  process = subprocess.Popen(
    [sys.executable, '-m', 'cdd.prepare', '--config=depth:tiny', source, '--count=100000']
    + [f'--config.prior.path={prior}', f'--output={folder}', '--shards=50000', '--batch_size=2']
    + [f'--coordinator=localhost:{free_port()}', '--num_processes=1', '--process_id=0'],
    cwd=tiny.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 300
  while not list(folder.glob('*.arrayrecord')):
    assert process.poll() is None and time.monotonic() < deadline, process.communicate()
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  code, _, errors = tiny.finish(process, timeout=30)
  assert code == -signal.SIGTERM and 'Traceback' not in errors
  assert len(list(folder.glob('*.arrayrecord'))) < 50000
