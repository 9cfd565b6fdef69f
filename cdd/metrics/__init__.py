"""Metrics: name -> a `Metric`, in the order in which tables show them."""

from collections.abc import Iterable, Mapping

from cdd.core.registry import choose
from cdd.metrics.depth import DEPTH
from cdd.metrics.edits import EDITED, KEPT
from cdd.metrics.frechet import FRECHET
from cdd.metrics.lpips import LPIPS
from cdd.metrics.metric import Metric
from cdd.metrics.psnr import PSNR
from cdd.metrics.ssim import SSIM

METRICS = dict(
  lpips=LPIPS, psnr=PSNR, ssim=SSIM, frechet=FRECHET, edited=EDITED, kept=KEPT, depth=DEPTH
)
GENERAL = ('lpips', 'psnr', 'ssim', 'frechet')  # Those of images of any kind.


def chosen(names: Iterable[str] = GENERAL) -> dict[str, Metric]:
  """The metrics of these names.

  Raises:
    UserError: an unknown name.
  """
  return {name: choose(METRICS, name, 'metric') for name in names}


def of_rows(rows: Iterable[Mapping]) -> dict[str, Metric]:
  """The metrics that were measured in some of these rows."""
  there = {name for row in rows for name in row}
  return {name: one for name, one in METRICS.items() if name in there}
