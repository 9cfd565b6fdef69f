"""Trains the prior for many hours, in stages; its output says at any time how far it is.

python -m benchmarks.long_prior --home=FOLDER           trains, or goes on where it stopped
python -m benchmarks.long_prior --home=FOLDER --export  writes FOLDER/STAGE/export as it is now

`make prior` starts it in the background. SIGTERM has it save and leave; killed otherwise it loses
what it did since the last checkpoint. Each stage is a config of configs/pretrain.py and starts from
what the one before it exported.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import filelock
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from cdd.core import cli, files
from cdd.core.errors import UserError
from cdd.core.types import Batch, Nets
from cdd.methods import METHODS
from cdd.runs import config as configs
from cdd.runs import experiment as experiments
from cdd.runs import export, loop
from cdd.training import checkpoint
from configs import pretrain

HOME = flags.DEFINE_string('home', None, 'Where the stages live.', required=True)
STAGES = flags.DEFINE_list(
  'stages', [*pretrain.LONG, 'long_end'], 'Stages of configs/pretrain.py, in order.'
)
EVERY = flags.DEFINE_integer('every', 500, 'Updates from one line to the next.')
ERRORS = flags.DEFINE_bool('errors', False, 'Only measures what the newest stage has reached.')
EXPORT = flags.DEFINE_bool('export', False, 'Only exports the newest checkpoint.')
HELD_OUT, BATCH = 128, 32
TIMES = (200, 400, 600, 800, 1000)


def held_out_error(experiment, kinds: Sequence[str]) -> Callable:
  """(parameters) -> {kind: {time: mean squared error of v}}, the same noise always.

  Args:
    kinds: what the held-out source takes in turn: scenes and photographs are learnt unlike.
  """
  networks = experiment.networks
  settings = dict(schedule=networks.schedule, num_steps=networks.schedule.num_steps)
  encode = jax.jit(networks.encode)
  examples = experiment.held_out(HELD_OUT, BATCH)
  for raw in examples:
    raw['image_latents'] = np.asarray(encode(experiment.frozen, raw['image']))
  whole = {name: np.concatenate([raw[name] for raw in examples]) for name in examples[0]}
  of_kind = {
    kind: {name: array[place :: len(kinds)] for name, array in whole.items()}
    for place, kind in enumerate(kinds)
  }

  @jax.jit
  def measure(params, frozen, raw, t, rng):
    tree = {**frozen, **params}
    nets = Nets(online=networks.denoiser(tree, networks.condition(tree, raw)))
    batch = Batch(raw['image_latents'])
    same = lambda rng, count, low, high: jnp.full((count, 1, 1, 1), t)
    return METHODS['finetune'].loss(nets, batch, rng, 0, sample_t=same, **settings)[0]

  def error(params):
    return {
      kind: {t: float(measure(params, experiment.frozen, raw, t, jax.random.key(0))) for t in TIMES}
      for kind, raw in of_kind.items()
    }

  return error


def watched(experiment, config, *, every: int, show: Callable[[str], None]):
  """The same experiment, which shows a line after every so many updates."""
  kinds = [source['name'] for source in config.data.held_out.sources]
  error, begun, done = held_out_error(experiment, kinds), time.perf_counter(), None

  def step(state, batch):
    nonlocal begun, done
    done = int(state.step) if done is None else done
    state, metrics = experiment.step(state, batch)
    done += 1
    if done % every == 0 or done == config.steps:
      found = error(state.evaluated)
      rate = every / (time.perf_counter() - begun)
      show(line(done, config, found, rate))
      begun = time.perf_counter()
    return state, metrics

  return experiment._replace(step=step)


def line(done: int, config, found: dict[str, dict[int, float]], rate: float) -> str:
  """What the log says: examples, held-out error, speed and time left."""
  batch = config.data.batch_size
  left = (config.steps - done) / rate / 3600
  return (
    f'{time.strftime("%Y-%m-%d %H:%M")} {config.name}: {done * batch:,} of '
    f'{config.steps * batch:,} examples; held-out error of v: {said(found)}; '
    f'{rate * batch:.1f} examples/s; {left:.1f} h left'
  )


def said(found: dict[str, dict[int, float]]) -> str:
  """Errors by kind and time, in words."""

  def of_kind(kind, by_time):
    values = ' '.join(f't {t}: {value:.4f}' for t, value in by_time.items())
    return f'{kind} {np.mean([*by_time.values()]):.4f} ({values})'

  return ', '.join(of_kind(*each) for each in found.items())


def fit(config, workdir: Path, *, every: int, show: Callable[[str], None]) -> bool:
  """Trains a stage, or goes on with it; whether it has ended."""
  if (workdir / 'export' / 'model_index.json').exists() and (workdir / 'ended').exists():
    return True
  configs.check(config, workdir)
  show(f'{config.name}: encodes {config.data.cache:,} examples first, unless they are there')
  experiment = experiments.experiment(config, workdir)
  configs.write(config, workdir)
  state = loop.fit(watched(experiment, config, every=every, show=show), config, workdir)
  if state is None:
    return False
  export.export(experiment, config, state.evaluated, workdir / 'export')
  (workdir / 'ended').touch()
  return True


def export_now(config, workdir: Path) -> None:
  """Exports the averaged parameters of the newest checkpoint.

  Raises:
    UserError: there is none yet.
  """
  experiment = experiments.experiment(config, workdir)
  experiment.batches.close()
  checkpoints = checkpoint.Checkpoints(workdir / 'checkpoints', experiment.abstract, keep=2)
  if checkpoints.latest() is None:
    raise UserError(f'{workdir} has no checkpoint yet.')
  state, _ = checkpoints.restore()
  export.export(experiment, config, state.evaluated, workdir / 'export')
  print(f'Wrote {workdir / "export"} after {int(state.step)} updates.')


def give_way() -> None:
  """Has Linux run this session below every other: nice alone counts among its own processes.

  Only if this process leads the session, as `make prior` has it, and not a terminal.
  """
  if os.getsid(0) == os.getpid():
    with contextlib.suppress(OSError):
      Path('/proc/self/autogroup').write_text('19')


def measure(config, workdir: Path) -> None:
  """Prints the held-out error of a stage's start, of its averaged weights and of its last ones."""
  config.data.cache = 0
  experiment = experiments.experiment(config, workdir)
  experiment.batches.close()
  kinds = [source['name'] for source in config.data.held_out.sources]
  error = held_out_error(experiment, kinds)
  checkpoints = checkpoint.Checkpoints(workdir / 'checkpoints', experiment.abstract, keep=2)
  rows = {'start': experiment.initial().params}
  if checkpoints.latest() is not None:
    state, _ = checkpoints.restore()
    rows |= {f'step {int(state.step)}, averaged': state.evaluated, 'not averaged': state.params}
  for label, params in rows.items():
    print(f'{config.name}, {label}: {said(error(params))}', flush=True)


def stages(names: Iterable[str], folder: Path):
  """(config, workdir) of each stage: the first starts from what its config says."""
  before = None
  for name in names:
    config = pretrain.get_config(name)
    if before:
      config.prior = dict(path=str(before / 'export'))
    before = folder / name
    yield config, before


def train_all(todo, show: Callable[[str], None]) -> None:
  """One stage after another, until a signal stops one."""
  for config, workdir in todo:
    show(f'{time.strftime("%Y-%m-%d %H:%M")} {config.name}: process {os.getpid()}')
    if not fit(config, workdir, every=EVERY.value, show=show):
      return


def main() -> None:
  folder = Path(HOME.value)
  folder.mkdir(parents=True, exist_ok=True)
  if EXPORT.value or ERRORS.value:
    begun = [one for one in stages(STAGES.value, folder) if (one[1] / 'checkpoints').exists()]
    if not begun:
      raise UserError(f'{folder} has no checkpoint yet.')
    (measure if ERRORS.value else export_now)(*begun[-1])
    return
  try:
    with filelock.FileLock(folder / 'lock', timeout=0):
      give_way()
      files.write(folder / 'pid', f'{os.getpid()}\n')
      try:
        train_all(stages(STAGES.value, folder), partial(print, flush=True))
      finally:
        (folder / 'pid').unlink()
  except filelock.Timeout as error:
    raise UserError(f'Another process trains in {folder}.') from error


if __name__ == '__main__':
  cli.run(main)
