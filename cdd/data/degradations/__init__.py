"""Degradations: name -> a factory, `factor` and keyword settings -> `Degradation`."""

from cdd.data.degradations.bicubic import bicubic
from cdd.data.degradations.real_esrgan import real_esrgan, stable_sr
from cdd.data.degradations.simple import simple

DEGRADATIONS = dict(bicubic=bicubic, real_esrgan=real_esrgan, simple=simple, stable_sr=stable_sr)
