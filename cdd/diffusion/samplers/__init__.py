"""Samplers: name -> a factory, keyword settings -> `Sampler`."""

from cdd.diffusion.samplers.consistency import consistency, consistency_renoise
from cdd.diffusion.samplers.ddim import ancestral, ddim

SAMPLERS = dict(
  ancestral=ancestral,
  consistency=consistency,
  consistency_renoise=consistency_renoise,
  ddim=ddim,
)
