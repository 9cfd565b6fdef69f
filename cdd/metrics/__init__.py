"""Metrics: name -> a `Metric`, in the order in which tables show them."""

from cdd.metrics.frechet import FRECHET
from cdd.metrics.lpips import LPIPS
from cdd.metrics.psnr import PSNR
from cdd.metrics.ssim import SSIM

METRICS = dict(lpips=LPIPS, psnr=PSNR, ssim=SSIM, frechet=FRECHET)
