"""Owns depth-to-image: a depth map becomes the condition, in ControlNet's convention."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.data import images
from cdd.data.tasks.task import Task


class Kind(NamedTuple):
  """What the numbers of a depth map mean.

  Attributes:
    measured: values -> which of them are measurements.
    inverse: measurements -> inverse depth, up to scale and shift.
  """

  measured: Callable[[np.ndarray], np.ndarray]
  inverse: Callable[[np.ndarray], np.ndarray]


def positive(values):
  return values > 0


def finite_positive(values):
  return np.isfinite(values) & (values > 0)


def same(values):
  return values


KINDS = dict(
  metric=Kind(positive, np.reciprocal),
  inverse=Kind(np.isfinite, same),
  disparity=Kind(finite_positive, same),
)


def depth(*, depth_kind: str = 'metric', percentiles: Sequence[float] | None = None) -> Task:
  """Images from depth maps.

  The example's `depth` [h, w] (or [h, w, 1]) becomes the `condition`, float32 [h, w, 3] in 0..1:
  inverse depth, stretched to the whole range for each image, near = 1, the same in all channels, as
  ControlNet feeds MiDaS' output (annotator/midas/__init__.py). A constant depth gives zeros. What
  is no measurement counts for nothing and becomes 0, as what is far does. A user's picture is read
  as inverse depth, bright meaning near, at any bit depth; what is transparent in it is black.

  Args:
    depth_kind: 'metric' for distances, which are inverted first: an infinite one, a sky's, becomes
      0, and 0, less, or NaN is no measurement, as sensors write it; 'inverse' for 1 / distance up
      to scale and shift, as MiDaS and Depth Anything estimate, of which NaN and infinities are no
      measurements; 'disparity' for a stereo camera's, of which 0 and less are none either.
    percentiles: the (low, high) percentiles of inverse depth stretched to 0 and 1, what
      lies outside clipped; None for the least and the greatest.

  Raises:
    UserError: an unknown kind or bad percentiles.
    ValueError: a depth of another shape than the image's.
  """
  kind = choose(KINDS, depth_kind, 'depth_kind')
  if percentiles is not None and not (
    len(percentiles) == 2 and 0 <= percentiles[0] < percentiles[1] <= 100
  ):
    raise UserError(f'percentiles are {percentiles}; they must be 0 <= low < high <= 100')

  def draw(example, rng):
    del rng
    values = shaped(example['depth'], example['image'].shape[:2])
    measured = kind.measured(values)
    if not measured.any():
      logging.warning(
        'A depth map of the kind %r has no measurement; its condition is 0.', depth_kind
      )
    near = np.zeros(values.shape, np.float32)
    # The inverse of a float32 number, and the span of two, may exceed float32.
    near[measured] = stretched(kind.inverse(values[measured].astype(np.float64)), percentiles)
    return dict(image=example['image'], condition=grey(near), caption=example['caption'])

  def from_picture(picture: Image.Image) -> np.ndarray:
    values = images.grey(picture)
    if not np.isfinite(values).all():
      raise images.Unreadable('its values are not all finite')
    return grey(stretched(values.astype(np.float64), percentiles))

  return Task(draw, from_picture, needs=('image', 'depth'))


def grey(near: np.ndarray) -> np.ndarray:
  """[h, w] as float32 [h, w, 3]."""
  return np.repeat(near[:, :, None], 3, axis=2).astype(np.float32)


def shaped(values, shape: tuple[int, int]) -> np.ndarray:
  """A depth map float32 [h, w]; a ValueError if it is not the image's shape."""
  values = np.asarray(values, np.float32)
  values = values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values
  if values.shape != tuple(shape):
    raise ValueError(f'The depth is {values.shape}, the image {tuple(shape)}; they must agree')
  return values


def stretched(values: np.ndarray, percentiles) -> np.ndarray:
  """Maps the least value (or low percentile) to 0 and the greatest to 1; zeros if they agree.

  Args:
    values: float64 [n] or [h, w].
  """
  if not values.size:
    return values
  if percentiles is None:
    low, high = values.min(), values.max()
  else:
    low, high = np.percentile(values, percentiles)
  if not high > low:
    return np.zeros_like(values)
  return np.clip((values - low) / (high - low), 0, 1)
