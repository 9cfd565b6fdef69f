"""Fifty faults over one run with two processes, and whether it ends as an unbroken one bit for bit.

  python -m benchmarks.chaos --faults=50

Processes are killed and told to stop at any moment, files of checkpoints are torn, emptied, deleted
and changed, and the disk is filled (in a tmpfs, which takes root; else that kind is left out).
After each fault the same command is given again. The file is also the config of the run: a small
random model, with a checkpoint every 10 steps.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from cdd.training import checkpoint, writer

EVERY = 10  # Steps from checkpoint to checkpoint.
STOPPED = 75  # The exit code of a run that was told to stop and saved.
ROOM = 96 << 20  # Bytes of the disk that is filled.
UNREAD = 2  # Steps whose metrics a killed process may have had in memory.
STARTS = 5  # Until the two processes find each other.
PATIENCE = 400  # Seconds until a run that makes no step counts as hung.


def get_config():
  """A run of depth that takes about a tenth of a second a step."""
  from configs import depth, tiny_prior

  length, words = 12, tiny_prior.TEXT['vocab_size']
  config = depth.get_config('tiny')
  config.name = 'chaos'
  config.prior = dict(
    path=None,
    new=dict(
      unet=tiny_prior.UNET,
      vae=tiny_prior.VAE,
      text_encoder=dict(tiny_prior.TEXT, max_position_embeddings=length),
      scheduler=tiny_prior.SCHEDULER,
      tokenizer=dict(vocab_size=words, length=length),
    ),
  )
  config.optimizer.name = 'adamw'
  config.data.batch_size, config.data.cache = 4, 64
  for source in (config.data.source, config.data.held_out):
    source.size = 32
  config.mesh = dict(data=1, fsdp=-1)  # Cut over both processes.
  config.log = dict(every=1, samples_every=0, checkpoint_every=EVERY, keep=2)
  config.evaluation.update(dict(count=4, batch_size=4, steps=(1,), shipped=(), more=()))
  return config


class Life(NamedTuple):
  """What one start of the run came to.

  Attributes:
    kind: the fault that ended it.
    resumed: the step that it went on from.
    codes: the exit codes of the processes.
    reached: the last step that was logged.
    saved: the step of the last checkpoint that was there when the fault struck.
    seconds: from the fault until both processes had ended.
    starts: how often it was started until it went on (`begin`).
  """

  kind: str
  resumed: int
  codes: list[int]
  reached: int
  saved: int
  seconds: float
  starts: int = 1


class Run:
  """The two processes of a run, and its folder."""

  def __init__(self, workdir: Path, steps: int):
    self.workdir, self.steps, self.processes = workdir, steps, []

  def start(self) -> None:
    with socket.socket() as listener:
      listener.bind(('localhost', 0))
      port = listener.getsockname()[1]
    command = [sys.executable, '-m', 'cdd.main', f'--config={__file__}', '--num_processes=2']
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


def live(run: Run, kind: str, step: int, rng: random.Random) -> Life:
  """Starts the run, and strikes once it has reached a step."""
  starts = begin(run)
  run.wait_for(lambda: run.reached() >= step)
  resumed = run.resumed()
  time.sleep(rng.uniform(0, 0.3))
  reached, saved, began = run.reached(), run.saved(), time.monotonic()
  FAULTS[kind](run, rng)
  codes = run.wait()
  seconds = time.monotonic() - began
  return Life(kind, resumed, codes, max(reached, run.reached()), saved, seconds, starts)


def begin(run: Run) -> int:
  """Starts the run until it makes steps, and says how many starts that took.

  Where the processors are busy, the two processes may not find each other in time: the command then
  asks for another start.

  Raises:
    RuntimeError: it fails for another reason, or too often.
  """
  for number in range(1, STARTS + 1):
    run.start()
    try:
      run.wait_for(lambda: run.resumed() is not None)
      return number
    except RuntimeError:
      run.signal(signal.SIGKILL, 0, 1)
      run.wait()
      if number == STARTS or 'timed out' not in run.errors():
        raise
  raise AssertionError


def broken(workdir: Path, steps: int, faults: int, seed: int) -> list[Life]:
  """Runs with faults, to the end, which is the last life."""
  rng, run, lives = random.Random(seed), Run(workdir, steps), []
  kinds = [kind for kind in FAULTS if kind != 'full_disk' or os.path.ismount(workdir.parent)]
  order = [kinds[n % len(kinds)] for n in range(faults)]
  rng.shuffle(order)
  try:
    for number, kind in enumerate(order):
      lives.append(live(run, kind, (number + 1) * steps // (faults + 1), rng))
      print(f'{number + 1:3d} of {faults}: {said(lives[-1])}', flush=True)
  finally:
    run.signal(signal.SIGKILL, 0, 1)
  return [*lives, whole(workdir, steps)]


def whole(workdir: Path, steps: int) -> Life:
  """A start that is left alone.

  Raises:
    RuntimeError: it fails.
  """
  run = Run(workdir, steps)
  try:
    starts = begin(run)
    codes = run.wait(PATIENCE + 5 * steps)
  finally:
    run.signal(signal.SIGKILL, 0, 1)
  if codes != [0, 0]:
    raise RuntimeError(f'The run ended with {codes}: {run.errors()}')
  return Life('none', run.resumed(), codes, run.reached(), run.saved(), 0.0, starts)


def said(life: Life) -> str:
  return (
    f'{life.kind:<18} from step {life.resumed} to {life.reached}, saved {life.saved}, exit codes '
    f'{life.codes} after {life.seconds:.1f} s' + (f', {life.starts} starts' * (life.starts > 1))
  )


def compare(one: Path, other: Path) -> dict[str, bool]:
  """What of two finished runs is the same bit for bit."""
  tensors = [load_file(folder / 'export/trained.safetensors') for folder in (one, other)]
  logs = [
    {row['step']: row['loss'] for row in writer.read(folder / 'log.jsonl') if 'loss' in row}
    for folder in (one, other)
  ]
  return dict(
    exported=tensors[0].keys() == tensors[1].keys()
    and all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0]),
    state=states_agree(one, other),
    losses=logs[0] == logs[1],
  )


def states_agree(one: Path, other: Path) -> bool:
  """Whether the last checkpoints hold the same step, parameters, average and moments."""
  import jax
  import orbax.checkpoint as ocp

  def read(folder: Path) -> list:
    path = folder / 'checkpoints' / str(checkpoint.newest(folder / 'checkpoints')) / 'state'
    reader = ocp.PyTreeCheckpointer()
    tree = reader.metadata(path).item_metadata.tree
    # As arrays of this process: the devices that they lay on are not here.
    whole = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return jax.tree.leaves(reader.restore(path, restore_args=whole))

  ours, theirs = read(one), read(other)
  return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def lost(lives: list[Life]) -> list[int]:
  """Of each fault, how many logged steps the next start had to repeat."""
  return [now.reached - then.resumed for now, then in zip(lives[:-1], lives[1:], strict=True)]


def allowed(life: Life) -> int:
  """The steps that a fault may cost: those since the last checkpoint, or since the one before."""
  if life.codes == [STOPPED, STOPPED]:
    return 0
  return EVERY * (2 if life.kind in DAMAGE else 1) + UNREAD


def summary(lives: list[Life]) -> str:
  """A line for each kind of fault."""
  steps, head = lost(lives), ('fault', 'times', 'exit codes', 'most steps lost', 'seconds to end')
  lines = ['{:<18} {:>5}  {:<18} {:>15} {:>15}'.format(*head)]
  for kind in FAULTS:
    these = [(life, n) for life, n in zip(lives[:-1], steps, strict=True) if life.kind == kind]
    if these:
      codes = ' '.join(map(str, sorted({code for life, _ in these for code in life.codes})))
      most, slowest = max(n for _, n in these), max(life.seconds for life, _ in these)
      lines.append(f'{kind:<18} {len(these):>5}  {codes:<18} {most:>15} {slowest:>15.1f}')
  return '\n'.join(lines)


@contextlib.contextmanager
def folders(root: Path | None):
  """(a folder for the unbroken run, one for the other: a small disk, if one may be mounted)."""
  if root:
    root.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=root) as place:
    disk = Path(place) / 'disk'
    disk.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={ROOM}', 'chaos', str(disk)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    if not mounted:
      print('No disk can be mounted here: none is filled.')
    try:
      yield Path(place), disk
    finally:
      if mounted:
        subprocess.run(['umount', '-l', str(disk)], check=False)


def main(arguments) -> int:
  steps = arguments.steps or 6 * (arguments.faults + 1)
  with folders(arguments.root) as (place, disk):
    whole(place / 'unbroken', steps)
    lives = broken(disk / 'run', steps, arguments.faults, arguments.seed)
    same = compare(place / 'unbroken', disk / 'run')
  beyond = [
    said(life) for life, n in zip(lives[:-1], lost(lives), strict=True) if n > allowed(life)
  ]
  print(f'\n{steps} steps, a checkpoint every {EVERY}, two processes, {arguments.faults} faults')
  print(summary(lives))
  again = sum(life.starts - 1 for life in lives)
  print(f'starts repeated, as the processes did not find each other in time: {again}')
  for name, equal in same.items():
    print(f'{name:<18} {"equal bit for bit" if equal else "DIFFERS"}')
  print('beyond the last checkpoint: ' + ('; '.join(beyond) or 'nothing was lost'))
  return int(bool(beyond) or not all(same.values()))


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--faults', type=int, default=50)
  parser.add_argument('--steps', type=int, help='of the whole run; 6 for each fault')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--root', type=Path, help='where the folders are made')
  sys.exit(main(parser.parse_args()))
