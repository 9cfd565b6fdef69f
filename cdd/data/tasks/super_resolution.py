"""Owns super-resolution: the condition is the degraded image, enlarged bicubically to full size."""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from cdd.core.registry import bind
from cdd.data.degradations.simple import DEGRADATIONS


def super_resolution(*, factor: int, degradation: Mapping) -> Callable:
  """Makes the task `(example, rng) -> dict(image, condition, caption)`, `factor` times smaller."""
  degrade = bind(DEGRADATIONS, degradation, 'degradation')

  def task(example, rng):
    small = Image.fromarray(degrade(example['image'], rng, factor=factor))
    height, width = example['image'].shape[:2]
    condition = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return dict(image=example['image'], condition=condition / 255, caption=example['caption'])

  return task
