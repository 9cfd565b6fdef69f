"""Owns the training loop: resume, step, log, checkpoint, and then evaluate."""

import contextlib
import json
import signal
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from cdd.runs import experiment as build, export, report
from cdd.core.errors import UserError
from cdd.reports import grid
from cdd.training import checkpoint, sharding
from cdd.training import writer as writers

# Sections that may change between a run and its resumption: they do not touch the parameters.
FREE = ('evaluation', 'log')


def run(config, workdir: Path) -> None:
  """Trains (or resumes) the run of `config` in `workdir`, exports it, evaluates it.

  Raises:
    UserError: the workdir belongs to another config, the config names something unknown, the
      prior is missing, or the loss is not finite.
  """
  check(config, workdir)
  experiment = build.experiment(config, workdir)
  report.check(experiment, config)
  if jax.process_index() == 0:
    writers.replace(workdir / 'config.json', json.dumps(as_json(config), indent=2) + '\n')
  state = fit(experiment, config, workdir)
  if state is None:
    return
  if jax.process_index() == 0:
    export.export(experiment, config, state.evaluated, workdir / 'export')
    if config.evaluation:
      report.evaluate(experiment, config, state.evaluated, workdir)


def check(config, workdir: Path) -> None:
  """Refuses a workdir that belongs to another config.

  Raises:
    UserError: names the fields that differ.
  """
  path = workdir / 'config.json'
  if not path.exists():
    return
  differing = [
    f'{key}: {old!r} there, {new!r} now'
    for key, old, new in differences(json.loads(path.read_text()), as_json(config))
    if key.split('.')[0] not in FREE
  ]
  if differing:
    raise UserError(
      f'{workdir} belongs to a run with another config ({"; ".join(differing[:6])}). '
      'Give another --workdir, or remove that one.'
    )


def as_json(config) -> dict:
  """The config as JSON has it: tuples are lists."""
  return json.loads(config.to_json_best_effort())


def differences(old, new, prefix=''):
  """Yields (path, old, new) for every field in which two nested dicts differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted({*old, *new}):
      yield from differences(old.get(key), new.get(key), f'{prefix}.{key}' if prefix else key)
  elif old != new:
    yield prefix, old, new


def fit(experiment, config, workdir: Path):
  """Runs the steps that are left; returns the final state, or None if a signal stopped it."""
  with contextlib.ExitStack() as stack:
    checkpoints = checkpoint.Checkpoints(
      workdir / 'checkpoints', experiment.abstract, keep=config.log.keep, best='score'
    )
    stack.callback(checkpoints.close)  # Waits for what is being written.
    stack.callback(experiment.batches.close)
    if checkpoints.latest() is None:
      state = experiment.initial()
    else:
      state, place = checkpoints.restore()
      experiment.batches.set_state(place)
    start = int(state.step)
    main = jax.process_index() == 0
    log = stack.enter_context(writers.Writer(workdir, step=start)) if main else None
    bar = dict(desc=config.name, total=config.steps, initial=start, dynamic_ncols=True)
    bar = stack.enter_context(tqdm(**bar, disable=not main))
    stop = stack.enter_context(Stop())
    loop = Loop(experiment, config, log, bar)
    for step in range(start + 1, config.steps + 1):
      state = loop.step(state, step)
      asked = stop.asked
      if asked or step == config.steps or step % config.log.checkpoint_every == 0:
        loop.settle()
        metrics = {} if asked else loop.preview(state, step, workdir)
        checkpoints.save(step, state, experiment.batches.get_state(), metrics or None)
      if asked and step < config.steps:
        bar.write(f'Stopped after step {step}; the same command resumes there.')
        return None
  return state


class Stop:
  """Turns the first SIGTERM or SIGINT into a request to save and leave."""

  asked = False

  def __enter__(self):
    def ask(number, frame):
      self.asked = True
      signal.signal(number, signal.SIG_DFL)

    with contextlib.suppress(ValueError):  # Only the main thread may set handlers.
      self._old = {n: signal.signal(n, ask) for n in (signal.SIGTERM, signal.SIGINT)}
    return self

  def __exit__(self, *_):
    for number, handler in getattr(self, '_old', {}).items():
      signal.signal(number, handler)


class Loop:
  """The body of the loop, with what it carries from step to step besides the state.

  Metrics are read one logging interval late, so that reading never waits for the device.
  """

  def __init__(self, experiment, config, log, bar):
    self._experiment, self._config, self._log, self._bar = experiment, config, log, bar
    self._newest = self._pending = None
    self._waited = self._began = 0.0

  def step(self, state, step: int):
    now = time.perf_counter()
    batch = next(self._experiment.batches)
    if self._idle():
      self._waited += time.perf_counter() - now
    batch = sharding.put_batch(batch, self._experiment.mesh)
    state, metrics = self._experiment.step(state, batch)
    self._newest = step, metrics
    if step % self._config.log.every == 0:
      self.flush()
      self._pending = step, metrics, self._waited
      self._waited = 0.0
    return state

  def _idle(self) -> bool:
    """Whether the device has done all it was given: only then is a late batch time lost.

    While it has not, the loop merely runs further ahead of it, as after a checkpoint.
    """
    return self._newest is None or self._newest[1]['loss'].is_ready()

  def flush(self) -> None:
    """Writes the metrics of the last logged step."""
    if self._pending is None:
      return
    step, metrics, waited = self._pending
    self._pending = None
    values = self.read(step, metrics)
    now = time.perf_counter()
    if self._began:
      elapsed = now - self._began
      rate = self._config.log.every / elapsed
      values.update(steps_per_second=rate, waiting=waited / elapsed)
    self._began = now
    if self._log:
      self._log.scalars(step, values)
    shown = [name for name in ('loss', 'consistency', 'guidance') if name in values]
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
          f'The {name} is {values[name]} at step {step}. The last checkpoint before it is intact; '
          f'a lower optimizer.learning_rate ({rate}) or a longer optimizer.warmup are the usual '
          'cures, in another --workdir.'
        )
    return values

  def preview(self, state, step: int, workdir: Path) -> dict:
    """Samples a fixed held-out batch into a picture; its score ranks the checkpoints."""
    every = self._config.log.samples_every
    if not every or (step % every and step != self._config.steps):
      return {}
    columns, score = report.preview(self._experiment, self._config, state.evaluated)
    self._began = 0.0
    if self._log:
      picture = grid.grid(columns)
      grid.save_png(workdir / 'samples' / f'{step:07d}.png', picture)
      self._log.image(step, 'samples', picture)
      self._log.scalars(step, dict(score=score))
    return dict(score=score)
