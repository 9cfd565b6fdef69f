"""Owns depth-to-image: a depth map becomes the condition, in ControlNet's convention."""

import numpy as np
from PIL import Image

from cdd.core.errors import UserError
from cdd.data import images
from cdd.data.tasks.task import Task

KINDS = ('metric', 'inverse')


def depth(*, depth_kind='metric', percentiles=None) -> Task:
  """Images from depth maps.

  The example's `depth` [h, w] (or [h, w, 1]) becomes the `condition`, float32 [h, w, 3] in 0..1:
  inverse depth, stretched to the whole range for each image, near = 1, the same in all channels, as
  ControlNet feeds MiDaS' output (annotator/midas/__init__.py). A constant depth gives zeros. A
  user's picture is read as inverse depth, bright meaning near, at any bit depth; what is
  transparent in it is black.

  Args:
    depth_kind: 'metric' for distances, which are inverted first (an infinite one, a sky's,
      becomes 0), or 'inverse' for 1 / distance up to scale and shift, as MiDaS estimates.
    percentiles: the (low, high) percentiles of inverse depth stretched to 0 and 1, what
      lies outside clipped; None for the least and the greatest.

  Raises:
    UserError: an unknown kind or bad percentiles.
    ValueError: a depth of another shape than the image's, with NaN, or, if metric, not positive.
  """
  if depth_kind not in KINDS:
    raise UserError(f'Unknown depth_kind {depth_kind!r}; choose one of {list(KINDS)}')
  if percentiles is not None:
    low, high = percentiles
    if not 0 <= low < high <= 100:
      raise UserError(f'percentiles are {percentiles}; they must be 0 <= low < high <= 100')

  def draw(example, rng):
    del rng
    near = inverse(example['depth'], depth_kind, example['image'].shape[:2])
    return dict(image=example['image'], condition=grey(near), caption=example['caption'])

  def from_picture(picture: Image.Image) -> np.ndarray:
    values = images.grey(picture)
    if not np.isfinite(values).all():
      raise images.Unreadable('its values are not all finite')
    return grey(values.astype(np.float64))  # The span of float32 numbers may exceed float32.

  def grey(near):
    return np.repeat(stretched(near, percentiles)[:, :, None], 3, axis=2).astype(np.float32)

  return Task(draw, from_picture, needs=('image', 'depth'))


def inverse(values, depth_kind, shape):
  """Inverse depth [h, w] float32 of either kind of depth, checked."""
  values = np.asarray(values, np.float32)
  values = values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values
  if values.shape != tuple(shape):
    raise ValueError(f'The depth is {values.shape}, the image {tuple(shape)}; they must agree')
  if depth_kind == 'inverse':
    if not np.isfinite(values).all():
      raise ValueError('An inverse depth must be finite')
    return values
  if not (values > 0).all():
    raise ValueError(f'A metric depth must be positive; the least is {values.min()}')
  return 1 / values


def stretched(values, percentiles):
  """Maps the least value (or low percentile) to 0 and the greatest to 1; zeros if they agree."""
  if percentiles is None:
    low, high = values.min(), values.max()
  else:
    low, high = np.percentile(values, percentiles).astype(np.float32)
  if not high > low:
    return np.zeros_like(values)
  return np.clip((values - low) / (high - low), 0, 1)
