"""Owns the training loop: resume, step, log, checkpoint, and then evaluate."""

import contextlib
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from cdd.core import files, hosts, interrupts
from cdd.core.errors import UserError
from cdd.reports import grid
from cdd.runs import config as configs
from cdd.runs import export, first_page, report, schema, streams
from cdd.runs.experiment import experiment
from cdd.runs.objective import method_of
from cdd.training import checkpoint, chips, meter, profiler, sharding
from cdd.training import writer as writers
from cdd.training.boards.board import About


def run(config, workdir: Path) -> bool:
  """Trains (or resumes) the run of `config` in `workdir`, exports it, evaluates it.

  Every process does all of it; process 0 alone writes.

  Returns:
    Whether it is finished, the same on every process; a run that a signal stopped is not.

  Raises:
    UserError: the workdir belongs to another config, the config names something unknown, the
      prior is missing, the loss is not finite, or the disk is full.
  """
  try:
    return trained(config, workdir)
  except OSError as error:
    if error.errno not in files.REFUSED:
      raise
    last = checkpoint.newest(workdir / 'checkpoints')
    said = (
      'there is no checkpoint yet' if last is None else f'the last checkpoint is of step {last}'
    )
    raise UserError(
      f'{workdir} cannot be written: {error}; {said}. Once it can, the same command resumes.'
    ) from error


def trained(config, workdir: Path) -> bool:
  """`run`, in which a disk may still refuse to be written."""
  began = time.time()
  schema.check(configs.as_json(config))
  changed = configs.check(config, workdir)
  bound = experiment(config, workdir)
  report.check(bound, config)
  if jax.process_index() == 0:
    configs.write(config, workdir)
    meter.start(workdir, began)
  if checkpoint.newest(workdir / 'checkpoints') is None:
    first_page.write(bound, config, workdir)
  state = fit(bound, config, workdir, changed)
  if jax.process_index() == 0 and (said := streams.said_of_skipped(workdir)):
    print(said, flush=True)
  if state is None:
    return False
  export.export(bound, config, state.evaluated, workdir / 'export')
  if config.evaluation:
    report.evaluate(bound, config, state.evaluated, workdir)
  return True


def fit(experiment, config, workdir: Path, changed: str = ''):
  """Runs the steps that are left; returns the final state, or None if a signal stopped it.

  Args:
    changed: how the config differs from that of the checkpoint, in words.
  """
  with contextlib.ExitStack() as stack:
    checkpoints = checkpoint.Checkpoints(
      workdir / 'checkpoints', experiment.abstract, keep=config.log.keep, best='score'
    )
    stack.callback(checkpoints.close)  # Waits for what is being written.
    stack.callback(experiment.batches.close)
    if checkpoints.latest() is None:
      state, position = experiment.initial(), None
    else:
      state, position = checkpoints.restore()
    start = int(state.step)
    if position is not None:
      experiment.batches.set_state(position)
    if start and jax.process_index() == 0:
      print(resumed(workdir, start, config.steps, changed), flush=True)
    loop = opened(stack, experiment, config, workdir, start)
    stop = stack.enter_context(hosts.Stop())
    for step in range(start + 1, config.steps + 1):
      state = loop.step(state, step)
      stopping = stop.reached(step)
      metrics = {} if stopping else loop.preview(state, step, workdir)
      if stopping or step == config.steps or step % config.log.checkpoint_every == 0:
        loop.settle()
        with loop.paused():
          checkpoints.save(step, state, experiment.batches.get_state(), metrics or None)
      if stopping:
        checkpoints.wait()
        loop.say(f'Stopped after step {step}; the same command resumes there.')
        return None
    loop.say(loop.said_of_waiting())
  return state


def resumed(workdir: Path, start: int, steps: int, changed: str) -> str:
  """What becomes of a run that was there already: it goes on, or is only measured again.

  Args:
    changed: how the config differs from the one before, in words.
  """
  said = f'{workdir} has a run at step {start} of {steps}, which '
  said += 'goes on' if start < steps else 'has ended and is measured again'
  return f'{said}{f", with {changed}" if changed else ""}; another --workdir is another run.'


def opened(stack: contextlib.ExitStack, experiment, config, workdir: Path, start: int) -> 'Loop':
  """The loop of a run that goes on from `start`, with its log, bar, meter and traces."""
  main, settings = jax.process_index() == 0, dict(step=start, images=config.data.batch_size)
  log, speed = None, meter.Meter(**settings)
  if main:
    about = About(workdir, start, config.name, configs.as_json(config))
    boards = writers.boards(config.log, about)
    log = stack.enter_context(writers.Writer(workdir, step=start, boards=boards))
    speed = meter.resumed(workdir, log.before, **settings)
  bar = dict(desc=config.name, total=config.steps, initial=start, dynamic_ncols=True)
  bar = stack.enter_context(tqdm(**bar, disable=not main))
  traces = dict(asked=config.log.get('profile'), pause=speed.paused, say=bar.write)
  traces = stack.enter_context(profiler.Profiler(workdir / 'profiles', **traces))
  return Loop(experiment, config, log, bar, speed, traces)


class Loop:
  """The body of the loop, with what it carries from step to step besides the state.

  Metrics are read one logging interval late, so that reading never waits for the device.
  """

  def __init__(self, experiment, config, log, bar, speed: meter.Meter, traces: profiler.Profiler):
    self._experiment, self._config, self._log, self._bar = experiment, config, log, bar
    self._speed, self._traces = speed, traces
    self._newest = self._pending = None

  def paused(self):
    """A context for what is no training (`Meter.paused`)."""
    return self._speed.paused()

  def say(self, text: str) -> None:
    """Prints a line above the bar, if there is one, once for all processes."""
    if self._log and text:
      self._bar.write(text)

  def said_of_waiting(self) -> str:
    """The share of the time of training in which steps waited for data; empty if there was none."""
    waited, training = self._speed.total
    if not training:
      return ''
    return f'Steps waited for data in {waited / training:.2%} of the {training:.0f} s of training.'

  def step(self, state, step: int):
    now = time.perf_counter()
    batch = next(self._experiment.batches)
    if self._idle():
      self._speed.waited(time.perf_counter() - now)
    batch = sharding.put_batch(batch, self._experiment.mesh)
    self._traces.before(step)
    with interrupts.compiling('the training step', self.say):
      run = self._first if self._newest is None else self._experiment.step
      state, metrics = run(state, batch)
    self._traces.after(step, metrics)
    self._newest = step, metrics
    if step % self._config.log.every == 0:
      self.flush()
      self._pending = step, metrics
    return state

  def _first(self, state, batch):
    """A step that is compiled; counts its work where it is known what the chips could do."""
    with self.paused():
      if chips.peak(jax.devices()[0].device_kind):
        self._speed.flops = self._experiment.work(state, batch)
      return self._experiment.step(state, batch)

  def _idle(self) -> bool:
    """Whether the device has done all it was given: only then is a late batch time lost.

    While it has not, the loop merely runs further ahead of it, as after a checkpoint.
    """
    return self._newest is None or self._newest[1]['loss'].is_ready()

  def flush(self) -> None:
    """Writes the metrics of the last logged step."""
    if self._pending is None:
      return
    step, metrics = self._pending
    self._pending = None
    values = self.read(step, metrics)
    values |= self._speed.read(self._newest[0] if self._idle() else step)
    if self._log:
      self._log.scalars(step, values)
    shown = [name for name in method_of(self._config).plots if name in values]
    self._bar.set_postfix({name: f'{values[name]:.4f}' for name in shown})

  def settle(self) -> None:
    """Flushes, and makes sure of the newest step, so that nothing broken is saved."""
    self.flush()
    self.read(*self._newest)

  def read(self, step: int, metrics) -> dict[str, float]:
    """Metrics as numbers; a loss or a gradient that is not finite ends the run.

    The bar moves here: what is read is done, while the loop itself is ahead of the device.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    self._bar.update(step - self._bar.n)
    for name in ('loss', 'grad_norm'):
      if not np.isfinite(values[name]):
        rate = self._config.optimizer.learning_rate
        raise UserError(
          f'The {name} is {values[name]} at step {step}. The checkpoint before it is intact; '
          f'a lower optimizer.learning_rate ({rate}) or a longer optimizer.warmup are the usual '
          'cures, in another --workdir.'
        )
    return values

  def preview(self, state, step: int, workdir: Path) -> dict:
    """Samples a fixed held-out batch into a picture; its score ranks the checkpoints.

    A checkpoint at whose step nothing is sampled has no score, and is never kept as the best.
    """
    every = self._config.log.samples_every
    if not every or (step % every and step != self._config.steps):
      return {}
    self.settle()
    with self.paused(), interrupts.compiling('the previews', self.say):
      columns, score = report.preview(self._experiment, self._config, state.evaluated)
      if self._log:
        picture = grid.grid(columns)
        grid.save_png(workdir / 'samples' / f'{step:07d}.png', picture)
        self._log.image(step, 'samples', picture)
        self._log.scalars(step, dict(score=score))
    return dict(score=score)
