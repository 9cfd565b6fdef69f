"""Owns what a U-Net is given of the process: the time, and beside it its step and the guidance."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from cdd.core.types import Array


class Beside(NamedTuple):
  """What a U-Net was trained to be given beside the time.

  Attributes:
    counts: the numbers of steps that it may be asked for; (): it is not given its step.
    guidance: the least and the largest guidance scale that it may be given; (): it is given none.
  """

  counts: tuple[int, ...] = ()
  guidance: tuple[float, ...] = ()

  @property
  def words(self) -> str:
    """What it is given, for messages; '' for nothing."""
    given = {'its step': self.counts, 'a guidance scale': self.guidance}
    return ' and '.join(kind for kind, values in given.items() if values)

  @property
  def scale(self) -> float:
    """The guidance scale where none is asked for: 1, no guidance, or the nearest to it."""
    least, most = self.guidance or (1.0, 1.0)
    return min(max(1.0, least), most)


NOTHING = Beside()
# A latent consistency model, whose files do not say which scales it was trained for.
LCM = Beside(guidance=(-math.inf, math.inf))


class Time(NamedTuple):
  """Where in the process an evaluation is.

  Attributes:
    index: [b] the backbone's time index (t - 1).
    step: [b] the size of the step that it is for, t - s; 0, or None for all: no step is given.
    guidance: [b] the guidance scale that the network is given, with a step or in its place (LCM).
  """

  index: Array
  step: Array | None = None
  guidance: Array | None = None

  def beside(self, channels: int) -> Array | None:
    """What is given beside the time [b, channels], diffusers' `timestep_cond`; zeros for nothing.

    Of a step and a scale each has half of the channels, and no scale is given without a step.
    """
    if self.step is None:
      return None if self.guidance is None else guidance_sinusoid(self.guidance, channels)
    if self.guidance is None:
      return step_sinusoid(self.step, channels)
    scale = guidance_sinusoid(self.guidance, channels // 2)
    scale = jnp.where(self.step[:, None] > 0, scale, 0)
    return jnp.concatenate([step_sinusoid(self.step, channels // 2), scale], axis=-1)


def sinusoid(index: Array, channels: int, *, flip: bool, shift: float) -> Array:
  """Sinusoidal embedding [b] -> [b, channels] (diffusers' get_timestep_embedding)."""
  half = channels // 2
  rates = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
  angles = index.astype(jnp.float32)[:, None] * rates[None, :]
  waves = [jnp.cos(angles), jnp.sin(angles)] if flip else [jnp.sin(angles), jnp.cos(angles)]
  return jnp.concatenate(waves, axis=-1)


def guidance_sinusoid(scale: Array, channels: int) -> Array:
  """The embedding [b, channels] of guidance scales [b], as diffusers' pipelines give it to an LCM.

  It is get_guidance_scale_embedding of scale − 1.
  """
  return sinusoid(1000 * (scale - 1), channels, flip=False, shift=1)


def step_sinusoid(step: Array, channels: int) -> Array:
  """The embedding [b, channels] of steps [b]; zeros for 0 (no step).

  Else it is diffusers' get_guidance_scale_embedding of step / 1000.
  """
  waves = sinusoid(step, channels, flip=False, shift=1)
  return jnp.where(step[:, None] > 0, waves, 0)
