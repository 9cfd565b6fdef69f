"""Owns conditions that lie ready beside the images: edges, poses, segmentations, sketches, ..."""

import logging

import numpy as np
from PIL import Image

from cdd.data.tasks.task import Task, as_rgb, lines_on_white

FIRST = 20  # So many conditions are looked at.


def paired(*, invert: bool = False) -> Task:
  """Images from the condition pictures that the source has for them, as they are.

  The example's `condition` is float32 [h, w, 3] in 0..1, aligned with the image. It is what
  ControlNet's training calls the source or the conditioning image. If one of the first looks like
  dark lines on white, a warning says so (`lines_on_white`).

  Args:
    invert: makes black of white and white of black, of a user's picture when sampling too.
  """
  looked_at = []

  def right(condition: np.ndarray) -> np.ndarray:
    return 1 - condition if invert else condition

  def draw(example, rng):
    del rng
    condition = right(example['condition'])
    if len(looked_at) < FIRST:
      looked_at.append(said := lines_on_white(condition))
      if said and sum(map(bool, looked_at)) == 1:
        more = "invert the files, or give the config data.task=dict(name='paired', invert=True)"
        logging.warning('A condition %s: %s.', said, more)
    return dict(image=example['image'], condition=condition, caption=example['caption'])

  def from_picture(picture: Image.Image) -> np.ndarray:
    return right(as_rgb(picture))

  return Task(draw, from_picture, needs=('image', 'condition'))
