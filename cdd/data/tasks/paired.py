"""Owns conditions that lie ready beside the images: edges, poses, segmentations, sketches, ..."""

import logging

import numpy as np
from PIL import Image

from cdd.data.tasks.task import Task, as_rgb, lines_on_white

FIRST = 20  # So many conditions are looked at.


def paired(*, invert: bool = False) -> Task:
  """Images from the condition pictures that the source has for them, as they are.

  The example's `condition` is float32 [h, w, 3] in 0..1, aligned with the image. It is what
  ControlNet's training calls the source or the conditioning image. If most of the first look like
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
      looked_at.append(lines_on_white(condition))
      found = [said for said in looked_at if said]
      if len(looked_at) == FIRST and len(found) > FIRST / 2:
        more = "invert the files, or give the config data.task=dict(name='paired', invert=True)"
        logging.warning('Most conditions are like the first, which %s: %s.', found[0], more)
    return dict(image=example['image'], condition=condition, caption=example['caption'])

  def from_picture(picture: Image.Image) -> np.ndarray:
    return right(as_rgb(picture))

  return Task(draw, from_picture, needs=('image', 'condition'))
