"""Owns images from their edges, found by OpenCV's Canny detector as ControlNet does."""

import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cdd.core.errors import UserError
from cdd.data import images
from cdd.data.tasks.task import Task


def canny(*, low: Sequence[float] = (50, 150), high: Sequence[float] = (150, 250)) -> Task:
  """Images from their edges.

  The condition is float32 [h, w, 3], 1 on the edges and 0 elsewhere, the same in all channels. A
  user's picture is one to find the edges of, with the thresholds in the middle of their ranges;
  one of black and white alone, and of both, holds edges already and is taken as it is. Edges are
  few: where most of such a picture is white its lines are the black ones, and it is inverted with a
  warning.

  Args:
    low, high: the ranges of Canny's two thresholds on the gradient's magnitude (L1, of 0..255),
      drawn anew for every example, as for ControlNet, whose demo has 100 and 200.

  Raises:
    UserError: the ranges are none, or OpenCV is not installed.
  """
  for name, bounds in (('low', low), ('high', high)):
    if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
      raise UserError(f'The range {name} of canny is {tuple(bounds)}; it must be 0 <= from <= to.')
  find = detector()

  def edges(image: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    found = find(image, min(thresholds), max(thresholds)) > 0
    return np.repeat(found[:, :, None], 3, axis=2).astype(np.float32)

  def draw(example, rng):
    image = np.round(255 * example['image']).astype(np.uint8)
    condition = edges(image, (rng.uniform(*low), rng.uniform(*high)))
    return dict(image=example['image'], condition=condition, caption=example['caption'])

  def from_picture(picture: Image.Image) -> np.ndarray:
    image = np.asarray(images.rgb(picture))
    both = np.array_equal(np.unique(image), (0, 255))
    if both and (image == image[..., :1]).all():
      return white_on_black((image / 255).astype(np.float32))
    return edges(image, (np.mean(low), np.mean(high)))

  return Task(draw, from_picture)


def white_on_black(edges: np.ndarray) -> np.ndarray:
  """A picture of edges [h, w, 3] of 0 and 1, inverted with a warning where most of it is 1."""
  if (mean := edges.mean()) <= 0.5:
    return edges
  logging.warning(
    'The picture of edges was inverted: its mean is %.2f of 0..1, so that its lines are black on '
    'white, and the model reads white ones on black.',
    mean,
  )
  return 1 - edges


def detector():
  """cv2.Canny.

  Raises:
    UserError: OpenCV is not installed.
  """
  try:
    import cv2
  except ImportError as error:
    raise UserError("The task canny needs OpenCV: pip install 'cdd-jax[canny]'.") from error
  return cv2.Canny
