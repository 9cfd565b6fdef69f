"""Owns the evaluation of one sampler: metrics over held-out batches, and the time it takes."""

import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from cdd.core import interrupts
from cdd.core.errors import UserError
from cdd.metrics.metric import Metric


def evaluate(
  sample: Callable[[dict, int], np.ndarray],
  batches: Sequence[dict],
  metrics: Mapping[str, Metric],
  *,
  first: int = 8,
  what: str = 'the sampler',
  say: Callable[[str], None] | None = None,
) -> tuple[dict, np.ndarray]:
  """Samples every batch once and compares with the truth.

  Args:
    sample: (batch, its number) -> images [b, H, W, 3] in [0, 1].
    batches: dicts with `image`, the truth, and what the metrics read.
    first: how many images to return for the picture.
    what, say: what a line calls the sampler while it is compiled, and what prints that.

  Returns:
    The result of every metric by its name, with seconds_per_image and count; the first images.

  Raises:
    UserError: a sample is not finite.
  """
  with interrupts.compiling(what, say):
    jax.block_until_ready(sample(batches[0], 0))  # Not timed.
  states = {name: metric.init() for name, metric in metrics.items()}
  seconds, count, shown = 0.0, 0, []
  for number, batch in enumerate(batches):
    began = time.perf_counter()
    images = np.asarray(sample(batch, number))
    seconds += time.perf_counter() - began
    check_finite(images, number)
    for name, metric in metrics.items():
      states[name] = metric.update(states[name], images, *(batch[key] for key in metric.reads))
    count += len(images)
    shown.extend(images[: max(0, first - len(shown))])
  row = {name: metric.result(states[name]) for name, metric in metrics.items()}
  return dict(row, seconds_per_image=seconds / count, count=count), np.stack(shown)


def check_finite(images: np.ndarray, number: int) -> None:
  """Refuses samples of a held-out batch that hold anything but numbers."""
  if not np.isfinite(images).all():
    raise UserError(f'The samples of held-out batch {number} are not finite.')
