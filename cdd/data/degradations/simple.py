"""Owns the simple degradation: blur, reduction, noise and JPEG, once each."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from cdd.data.degradations.degradation import Degradation, check_sides


def simple(
  *,
  factor: int,
  blur: Sequence[float] = (0.2, 0.8),
  noise: Sequence[float] = (0.0, 5.0),
  quality: Sequence[int] = (70, 95),
) -> Degradation:
  """Blur, reduction, noise and JPEG, in this order, on the host.

  Args:
    factor: the reduction; it must divide both sides.
    blur: range of the Gaussian's standard deviation, in pixels of the *reduced* image.
    noise: range of the Gaussian noise's standard deviation, of 255.
    quality: range of the JPEG quality.
  """

  def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    check_sides(image.shape, factor)
    height, width = image.shape[:2]
    picture = Image.fromarray(np.round(image * 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(factor * rng.uniform(*blur)))
    picture = picture.resize((width // factor, height // factor), Image.Resampling.BOX)
    noisy = np.asarray(picture, np.float32)
    noisy = noisy + rng.uniform(*noise) * rng.standard_normal(noisy.shape, np.float32)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.round(noisy), 0, 255).astype(np.uint8)).save(
      buffer, 'JPEG', quality=int(rng.integers(quality[0], quality[1] + 1)), subsampling=0
    )
    return np.asarray(Image.open(buffer))

  return Degradation(on_host=degrade)
