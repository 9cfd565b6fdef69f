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
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from benchmarks.faults import DAMAGE, FAULTS, PATIENCE, Run
from cdd.training import checkpoint, writer

EVERY = 10  # Steps from checkpoint to checkpoint.
STOPPED = 75  # The exit code of a run that was told to stop and saved.
ROOM = 96 << 20  # Bytes of the disk that is filled.
UNREAD = 2  # Steps whose metrics a killed process may have had in memory.
STARTS = 5  # Until the two processes find each other.


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
  rng, run, lives = random.Random(seed), Run(Path(__file__), workdir, steps), []
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
  run = Run(Path(__file__), workdir, steps)
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
