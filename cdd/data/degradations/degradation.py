"""Owns what a degradation is: a way to make a worse, smaller image, on the host or the device."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from cdd.core.errors import UserError


class Degradation(NamedTuple):
  """How a worse and smaller image is made, in one of two places.

  Attributes:
    on_host: (image [H, W, 3] in [0, 1], rng) -> the smaller one, uint8 [H / factor, W / factor, 3].
    on_device: (image [H, W, 3] in [0, 1], key) -> (the image to be restored [H, W, 3], the smaller
      one [H / factor, W / factor, 3]), both float32 in [0, 1]: a pure function of arrays.
    intact: the share of examples whose condition is the image to be restored itself; on the device.
  """

  on_host: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
  on_device: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = None
  intact: float = 0.0


def check_sides(shape: tuple[int, ...], factor: int) -> None:
  """Checks that a factor divides the sides of an image.

  Raises:
    UserError: it does not.
  """
  height, width = shape[:2]
  if height % factor or width % factor:
    raise UserError(
      f'config.data.task.factor={factor} does not divide {height}x{width} pixels; '
      'choose one that divides both.'
    )
