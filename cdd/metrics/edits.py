"""Owns how well an instruction was followed: where something was to change, and where nothing was.

The edited twin of a rendered scene, the reference, says where and how.
"""

import numpy as np

from cdd.metrics.metric import mean_of

CHANGED = 0.05  # A channel's difference, of 1, from which on a pixel counts as changed.


def changed(edited: np.ndarray, before: np.ndarray) -> np.ndarray:
  """Where the true edit changed a picture, bool [b, H, W, 1]."""
  return (np.abs(np.asarray(edited, np.float64) - before) > CHANGED).any(-1, keepdims=True)


def success(images: np.ndarray, edited: np.ndarray, before: np.ndarray) -> np.ndarray:
  """[b], 1 where the changed pixels are nearer to the true edit than to the picture before it.

  Args:
    images, edited, before: [b, H, W, 3] in [0, 1]. An edit that changes nothing counts as made.
  """
  where = changed(edited, before)

  def apart(other):
    return (((np.asarray(images, np.float64) - other) ** 2) * where).sum(axis=(1, 2, 3))

  return (apart(edited) < apart(before)) | ~where.any(axis=(1, 2, 3))


def kept(images: np.ndarray, edited: np.ndarray, before: np.ndarray) -> np.ndarray:
  """Decibels between images and the picture before, where the true edit changed nothing.

  One for each example of which something was to stay, 80 at most.
  """
  where = ~changed(edited, before)
  pixels = where.sum(axis=(1, 2, 3))
  error = (((np.asarray(images, np.float64) - before) ** 2) * where).sum(axis=(1, 2, 3))
  stays = pixels > 0
  return 10 * np.log10(1 / (error[stays] / (3 * pixels[stays]) + 1e-8))


EDITED = mean_of(success, label='Edited', better=max, digits=3)._replace(
  reads=('image', 'condition'),
  note='Edited: the share of examples that are nearer, where the true edit changed the picture, to '
  'it than to the picture before it; an untouched picture has 0.',
)
KEPT = mean_of(kept, label='Kept (dB)', better=max, digits=2)._replace(
  reads=('image', 'condition'),
  note='Kept: the signal-to-noise ratio of the pixels that were not to change, against the picture '
  'before, over the examples of which something was to stay.',
)
