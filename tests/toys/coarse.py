"""A degradation: every pixel of the smaller picture is one of a few greys of each channel."""

import numpy as np

from cdd.data.degradations.degradation import Degradation


def coarse(*, factor: int, shades: int = 4) -> Degradation:
  """uint8 [H / factor, W / factor, 3] with `shades` values of each channel."""

  def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width, _ = image.shape
    tiles = image.reshape(height // factor, factor, width // factor, factor, 3).mean((1, 3))
    levels = np.floor(tiles * (shades - 1) + rng.random())
    return (255 * np.clip(levels / (shades - 1), 0, 1)).astype(np.uint8)

  return Degradation(on_host=degrade)
