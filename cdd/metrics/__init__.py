"""Metrics: name -> a `Metric`, in the order in which tables show them."""

from collections.abc import Iterable, Mapping

from cdd.metrics.edits import EDITED, KEPT
from cdd.metrics.frechet import FRECHET
from cdd.metrics.lpips import LPIPS
from cdd.metrics.metric import Metric
from cdd.metrics.psnr import PSNR
from cdd.metrics.ssim import SSIM

METRICS = dict(lpips=LPIPS, psnr=PSNR, ssim=SSIM, frechet=FRECHET, edited=EDITED, kept=KEPT)


def of_task(task: str) -> dict[str, Metric]:
  """The metrics that a task is measured by."""
  return {name: one for name, one in METRICS.items() if not one.tasks or task in one.tasks}


def of_rows(rows: Iterable[Mapping]) -> dict[str, Metric]:
  """The metrics that were measured in some of these rows."""
  there = {name for row in rows for name in row}
  return {name: one for name, one in METRICS.items() if name in there}
