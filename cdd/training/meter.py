"""Owns the speed of a run: steps and images per second, waiting, MFU and goodput."""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from cdd.core import files
from cdd.training import chips

NAME = 'started.json'


class Meter:
  """Divides the time of a run into training and what is not, from its first start on.

  Attributes:
    flops: of the products and convolutions of a step, on all chips together; None is unknown.
    total: the seconds of this start in which the devices waited for batches, and of training.
  """

  def __init__(self, *, step: int, images: int, began: float | None = None, productive: float = 0):
    """Of a run that goes on from `step`.

    Args:
      images: of a step, on all chips together.
      began: when the run was started first, in seconds since 1970; now, if None.
      productive: the seconds of productive training before this start.
    """
    self.flops = None
    self._images, self._done = images, step
    self._began = time.time() if began is None else began
    self._productive = productive
    self._waited = self._paused = 0.0
    self.total = (0.0, 0.0)
    self._since = time.perf_counter()
    self._values = {}

  @contextlib.contextmanager
  def paused(self):
    """What happens within is no training: nothing else is on its way on the devices."""
    began = time.perf_counter()
    yield
    self._paused += time.perf_counter() - began

  def waited(self, seconds: float) -> None:
    """Adds time in which the devices had nothing to do, since no batch was there."""
    self._waited += seconds

  def read(self, step: int) -> dict[str, float]:
    """The values of a row of the log, once the devices have done `step`.

    They are those of the time since the row before; where no step was done since, they are its.
    """
    now = time.perf_counter()
    steps, training = step - self._done, now - self._since - self._paused
    if steps > 0 and training > 0:
      self._values = self._speed(steps / training)
      self._values['data_wait'] = self._waited / training
    self._productive += max(training - self._waited, 0)
    self.total = self.total[0] + self._waited, self.total[1] + training
    self._done, self._since, self._waited, self._paused = step, now, 0.0, 0.0
    wall = max(time.time() - self._began, 1e-9)
    shares = dict(goodput=self._productive / wall, wall_seconds=wall)
    return self._values | shares | chips.memory()

  def _speed(self, rate: float) -> dict[str, float]:
    devices = jax.devices()
    count, peak = chips.count(devices), chips.peak(devices[0].device_kind)
    out = dict(steps_per_second=rate, images_per_second_per_chip=rate * self._images / count)
    if peak and self.flops:
      out['mfu'] = self.flops * rate / (count * peak)
    return out


def start(workdir: Path, began: float) -> None:
  """Writes down when a run was started first, in seconds since 1970, if nothing says so yet."""
  if not (Path(workdir) / NAME).exists():
    files.write_json(Path(workdir) / NAME, dict(time=began))


def resumed(workdir: Path, rows: Sequence[Mapping], **settings) -> Meter:
  """The meter of a run that goes on where `rows`, its log, ends.

  What was trained after the last row is not counted as productive: most of it is lost.

  Args:
    settings: `step` and `images` of the meter.
  """
  anew = not (Path(workdir) / NAME).exists()
  start(workdir, time.time())
  began = json.loads((Path(workdir) / NAME).read_text())['time']
  last = None if anew else next((row for row in reversed(rows) if 'goodput' in row), None)
  productive = last['goodput'] * last['wall_seconds'] if last else 0.0
  return Meter(began=began, productive=productive, **settings)
