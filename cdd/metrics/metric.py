"""Owns what a metric is: a record that streams over batches and ends in one number."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


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
  """

  init: Callable[[], Any]
  update: Callable[..., Any]
  result: Callable[[Any], float]
  label: str
  better: Callable
  digits: int
  note: str = ''
  reads: tuple[str, ...] = ('image',)

  @property
  def heading(self) -> str:
    """The label with an arrow that shows which way is better."""
    return f'{self.label} {"↓" if self.better is min else "↑"}'

  def shown(self, value: float) -> str:
    """A value with the metric's number of digits."""
    return f'{value:.{self.digits}f}'


def mean_of(per_image: Callable[..., np.ndarray], *, label, better, digits) -> Metric:
  """The mean over images of a measure of each, (images, *references) -> [b]."""

  def update(state, images, *references):
    total, count = state
    values = np.asarray(per_image(images, *references), np.float64)
    return total + values.sum(), count + len(values)

  def result(state):
    total, count = state
    return float(total / count)

  return Metric(lambda: (0.0, 0), update, result, label, better, digits)
