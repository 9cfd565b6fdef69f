"""Owns super-resolution: the condition is the degraded image, enlarged bicubically to full size."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from cdd.core.registry import bind
from cdd.data import images
from cdd.data.degradations import DEGRADATIONS
from cdd.data.tasks.task import Task, as_rgb


def super_resolution(*, factor: int, degradation: Mapping) -> Task:
  """Images from ones that are `factor` times smaller; `degradation` makes those in training."""
  degrade = bind(DEGRADATIONS, degradation, 'degradation')

  def draw(example, rng):
    small = Image.fromarray(degrade(example['image'], rng, factor=factor))
    return dict(image=example['image'], condition=enlarged(small), caption=example['caption'])

  def enlarged(small: Image.Image) -> np.ndarray:
    small = images.rgb(small)
    size = (factor * small.width, factor * small.height)
    return as_rgb(small if factor == 1 else small.resize(size, Image.Resampling.BICUBIC))

  return Task(draw, enlarged)
