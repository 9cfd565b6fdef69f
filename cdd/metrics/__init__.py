"""Metrics of pairs: metric(images, references) -> [b]. The Fréchet distance compares sets."""

from cdd.metrics.psnr import psnr
from cdd.metrics.ssim import ssim

METRICS = dict(psnr=psnr, ssim=ssim)
