"""Owns a run of two processes, and what may happen to it: the faults of benchmarks/chaos.py."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cdd.training import checkpoint, writer

PATIENCE = 400  # Seconds until a run that makes no step counts as hung.


class Run:
  """The two processes of a run, and its folder."""

  def __init__(self, config: Path, workdir: Path, steps: int):
    self.config, self.workdir, self.steps, self.processes = config, workdir, steps, []

  def start(self) -> None:
    with socket.socket() as listener:
      listener.bind(('localhost', 0))
      port = listener.getsockname()[1]
    command = [sys.executable, '-m', 'cdd.main', f'--config={self.config}', '--num_processes=2']
    command += [f'--workdir={self.workdir}', f'--config.steps={self.steps}']
    command += [f'--coordinator=localhost:{port}']
    self.processes = [
      subprocess.Popen(
        [*command, f'--process_id={rank}'],
        stdout=subprocess.DEVNULL,
        stderr=(self.workdir.parent / f'stderr_{rank}.txt').open('w'),
        env=dict(os.environ, JAX_NUM_CPU_DEVICES='2', JAX_PLATFORMS='cpu'),
      )
      for rank in range(2)
    ]

  def reached(self) -> int:
    """The last step that was logged."""
    with contextlib.suppress(FileNotFoundError):
      steps = [row['step'] for row in writer.read(self.workdir / 'log.jsonl') if 'loss' in row]
      return max(steps, default=0)
    return 0

  def resumed(self) -> int | None:
    """The step that this start went on from, by its progress bar; None before there is one."""
    said = (self.workdir.parent / 'stderr_0.txt').read_text()
    found = re.search(rf'\| (\d+)/{self.steps} \[', said)
    return int(found[1]) if found else None

  def saved(self) -> int:
    """The step of the newest checkpoint."""
    return checkpoint.newest(self.workdir / 'checkpoints') or 0

  def wait_for(self, condition: Callable[[], bool]) -> None:
    """Until the condition holds.

    Raises:
      RuntimeError: a process ends before, or it takes too long.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
      if any(process.poll() is not None for process in self.processes):
        raise RuntimeError(f'A process has ended by itself: {self.errors()}')
      if time.monotonic() > deadline:
        raise RuntimeError(f'The run makes no step: {self.errors()}')
      time.sleep(0.02)

  def wait(self, patience: float = PATIENCE) -> list[int]:
    """The exit codes.

    Raises:
      RuntimeError: one does not end in so many seconds.
    """
    try:
      return [process.wait(patience) for process in self.processes]
    except subprocess.TimeoutExpired as error:
      raise RuntimeError(f'A process does not end: {self.errors()}') from error

  def errors(self) -> str:
    paths = sorted(self.workdir.parent.glob('stderr_*.txt'))
    return ' | '.join(path.read_text()[-500:] for path in paths)

  def signal(self, number: int, *ranks: int) -> None:
    for rank in ranks:
      with contextlib.suppress(ProcessLookupError):
        self.processes[rank].send_signal(number)


# Faults: (run, random numbers) -> None, when the run has reached its step.


def kill_one(run: Run, rng: random.Random) -> None:
  run.signal(signal.SIGKILL, rng.randrange(2))


def kill_both(run: Run, rng: random.Random) -> None:
  del rng
  run.signal(signal.SIGKILL, 0, 1)


def stop_one(run: Run, rng: random.Random) -> None:
  run.signal(signal.SIGTERM, rng.randrange(2))


def stop_both(run: Run, rng: random.Random) -> None:
  run.signal(signal.SIGTERM, 0)
  time.sleep(rng.uniform(0, 0.5))
  run.signal(signal.SIGTERM, 1)


def kill_while_saving(run: Run, rng: random.Random) -> None:
  del rng
  unfinished = (run.workdir / 'checkpoints').glob
  run.wait_for(lambda: any(not path.name.isdigit() for path in unfinished('*.*')))
  run.signal(signal.SIGKILL, 0, 1)


def kill_at_the_start(run: Run, rng: random.Random) -> None:
  """Of the life after this one: while it starts, compiles or restores."""
  kill_both(run, rng)
  run.wait()
  run.start()
  time.sleep(rng.uniform(0.5, 15))
  kill_both(run, rng)


def damaged(change: Callable[[Path, random.Random], None]) -> Callable:
  """Kills both, and changes a file of the newest checkpoint."""

  def strike(run: Run, rng: random.Random) -> None:
    kill_both(run, rng)
    run.wait()
    if newest := run.saved():
      folder = run.workdir / 'checkpoints' / str(newest)
      files = sorted(path for path in folder.rglob('*') if path.is_file() and path.stat().st_size)
      change(rng.choice(files), rng)

  return strike


def tear(path: Path, rng: random.Random) -> None:
  os.truncate(path, rng.randrange(path.stat().st_size))


def delete(path: Path, rng: random.Random) -> None:
  del rng
  path.unlink()


def flip(path: Path, rng: random.Random) -> None:
  data = bytearray(path.read_bytes())
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  path.write_bytes(data)


def zero(path: Path, rng: random.Random) -> None:
  del rng
  path.write_bytes(bytes(path.stat().st_size))


def empty_step(run: Run, rng: random.Random) -> None:
  kill_both(run, rng)
  run.wait()
  (run.workdir / 'checkpoints' / str(run.steps + 99)).mkdir(parents=True, exist_ok=True)


def fill_disk(run: Run, rng: random.Random) -> None:
  """Until the run has ended; then there is room again."""
  del rng
  ballast = run.workdir.parent / 'ballast'
  with contextlib.suppress(OSError), ballast.open('wb', buffering=0) as file:
    while True:
      file.write(bytes(1 << 16))
  run.wait()
  ballast.unlink()


FAULTS = dict(
  kill_one=kill_one,
  kill_both=kill_both,
  stop_one=stop_one,
  stop_both=stop_both,
  kill_while_saving=kill_while_saving,
  kill_at_the_start=kill_at_the_start,
  torn_file=damaged(tear),
  deleted_file=damaged(delete),
  changed_bit=damaged(flip),
  zeroed_file=damaged(zero),
  empty_step=empty_step,
  full_disk=fill_disk,
)
# Faults that may cost a checkpoint, besides the steps since the last one.
DAMAGE = ('torn_file', 'deleted_file', 'changed_bit', 'zeroed_file')
