"""Metrics of pairs: metric(images, references) -> [b]. The Fréchet distance compares sets."""

from cdd.eval.metrics.psnr import psnr
from cdd.eval.metrics.ssim import ssim

METRICS = dict(psnr=psnr, ssim=ssim)
