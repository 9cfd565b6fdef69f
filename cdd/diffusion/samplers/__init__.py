"""Samplers: name -> a factory, keyword settings -> `Sampler`."""

from cdd.diffusion.samplers.consistency import consistency, consistency_renoise
from cdd.diffusion.samplers.ddim import ancestral, ddim
from cdd.diffusion.samplers.lcm import lcm

SAMPLERS = dict(
  ancestral=ancestral,
  consistency=consistency,
  consistency_renoise=consistency_renoise,
  ddim=ddim,
  lcm=lcm,
)
