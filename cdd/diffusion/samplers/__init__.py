"""Samplers: sample(denoise, z, rng, *, schedule, times, clip=None) -> [b, h, w, c]."""

from cdd.diffusion.samplers.consistency import consistency, consistency_renoise
from cdd.diffusion.samplers.ddim import ancestral, ddim

SAMPLERS = dict(
  ancestral=ancestral,
  consistency=consistency,
  consistency_renoise=consistency_renoise,
  ddim=ddim,
)
