"""Owns what a metric is: a record that streams over batches and ends in one number."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cdd.core.errors import UserError


class Metric(NamedTuple):
  """A measure of images against references, all float32 [b, H, W, 3] in [0, 1].

  Attributes:
    init: () -> the state before the first batch.
    update: (state, images, *references) -> the state after a batch.
    result: state -> the number, summed in float64.
    label: what tables and charts call it.
    better: `min` or `max`.
    digits: how many are shown after the point.
    note: what a reader must know about it, or ''.
    reads: which arrays of a batch the references are; the truth is its `image`.
    least: the shortest side in pixels of images that it can measure.
    multiple: what the sides have to be multiples of.
    count: the fewest images that it can measure.
  """

  init: Callable[[], Any]
  update: Callable[..., Any]
  result: Callable[[Any], float]
  label: str
  better: Callable
  digits: int
  note: str = ''
  reads: tuple[str, ...] = ('image',)
  least: int = 1
  multiple: int = 1
  count: int = 1

  @property
  def heading(self) -> str:
    """The label with an arrow that shows which way is better."""
    return f'{self.label} {"↓" if self.better is min else "↑"}'

  def shown(self, value: float) -> str:
    """A value with the metric's number of digits."""
    return f'{value:.{self.digits}f}'


def check(name: str, metric: Metric, batch: dict[str, np.ndarray], count: int) -> None:
  """Refuses a metric that cannot measure images like those of a batch.

  Args:
    name: what messages call the metric.
    count: how many images there will be.

  Raises:
    UserError: says what the metric needs.
  """
  for array in metric.reads:
    if array not in batch:
      raise UserError(
        f'The metric {name!r} reads {array!r}, which the held-out examples do not have; leave it '
        'out of config.evaluation.metrics.'
      )
  height, width = batch['image'].shape[1:3]
  short = min(height, width) < metric.least
  if short or height % metric.multiple or width % metric.multiple:
    units = f', in multiples of {metric.multiple}' if metric.multiple > 1 else ''
    raise UserError(
      f'The metric {name!r} needs images of {metric.least} x {metric.least} pixels or more{units}, '
      f'not of {height} x {width}; set config.data.held_out.size, or leave it out of '
      'config.evaluation.metrics.'
    )
  if count < metric.count:
    raise UserError(
      f'The metric {name!r} needs {metric.count} examples or more, not {count}: raise '
      'config.evaluation.count, or leave it out of config.evaluation.metrics.'
    )


def mean_of(per_image: Callable[..., np.ndarray], *, label, better, digits) -> Metric:
  """The mean over images of a measure of each, (images, *references) -> [b]; 0 of none.

  The measure may leave out images that it says nothing of.
  """

  def update(state, images, *references):
    total, count = state
    values = np.asarray(per_image(images, *references), np.float64)
    return total + values.sum(), count + len(values)

  def result(state):
    total, count = state
    return float(total / count) if count else 0.0

  return Metric(lambda: (0.0, 0), update, result, label, better, digits)
