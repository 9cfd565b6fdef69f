"""Owns the simple degradation: blur, reduction, noise and JPEG, once each."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from cdd.core.errors import UserError


def simple(
  image: np.ndarray,
  rng: np.random.Generator,
  *,
  factor: int,
  blur: Sequence[float] = (0.2, 0.8),
  noise: Sequence[float] = (0.0, 5.0),
  quality: Sequence[int] = (70, 95),
) -> np.ndarray:
  """Blur, reduction, noise and JPEG, in this order.

  Args:
    factor: the reduction; it must divide both sides.
    blur: range of the Gaussian's standard deviation, in pixels of the *reduced* image.
    noise: range of the Gaussian noise's standard deviation, of 255.
    quality: range of the JPEG quality.

  Returns:
    uint8 [H / factor, W / factor, 3].

  Raises:
    UserError: the factor does not divide the sides.
  """
  height, width = image.shape[:2]
  if height % factor or width % factor:
    raise UserError(
      f'config.data.task.factor={factor} does not divide {height}x{width} pixels; '
      'choose one that divides both.'
    )
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
