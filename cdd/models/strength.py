"""Owns how strongly an adapter acts, and at which times it does."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from cdd.core.errors import UserError
from cdd.core.types import Array


class Strength(NamedTuple):
  """What an adapter adds is multiplied by this (diffusers' `controlnet_conditioning_scale`).

  Attributes:
    scale: 1 is as it was trained, 0 is no adapter.
    first, last: the largest and the smallest t at which it acts.
  """

  scale: Array | float
  first: Array | int
  last: Array | int

  def at(self, t: Array) -> Array:
    """The strength at t, int32 [b, 1, 1, 1], float32 of that shape."""
    return jnp.where((t <= self.first) & (t >= self.last), jnp.float32(self.scale), 0.0)


def within(times: Sequence[int], *, scale: float, start: float, end: float) -> Strength:
  """The strength of an adapter that acts in a part of the steps.

  As in diffusers (`control_guidance_start`, `control_guidance_end`) it acts in those steps that lie
  in the part as a whole.

  Args:
    times: those of a sampler, the last included.
    start, end: shares of the steps.

  Raises:
    UserError: no step lies in the part.
  """
  count = len(times) - 1
  steps = [i for i in range(count) if i / count >= start and (i + 1) / count <= end]
  if not steps:
    raise UserError(
      f'From adapter_start={start:g} to adapter_end={end:g} there is none of the {count} steps as '
      'a whole; choose a larger part, more steps, or adapter_strength=0.'
    )
  return Strength(scale, times[steps[0]], times[steps[-1]])
