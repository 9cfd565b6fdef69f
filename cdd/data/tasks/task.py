"""Owns what a task is, and how a picture of a user becomes an array."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from cdd.data import images

WHITE = 0.95  # What of 0..1 counts as white.
DRAWS = 2  # Words of random bits that an example has for `Task.finish`.


def as_rgb(picture: Image.Image) -> np.ndarray:
  """A picture, upright and on white, as float32 [H, W, 3] in [0, 1]; see `images.rgb`."""
  return np.asarray(images.rgb(picture), np.float32) / 255


def lines_on_white(condition: np.ndarray) -> str:
  """What to say of a condition that looks like dark lines on white; empty if it does not.

  It does if it is grey and most of it is white, as no picture of edges is that a model reads.

  Args:
    condition: [H, W, 3] in [0, 1].
  """
  grey = np.abs(condition - condition[..., :1]).max() <= images.ALIKE / 255
  if not grey or np.median(condition) < WHITE:
    return ''
  return (
    f'looks like dark lines on white (its mean is {condition.mean():.2f} of 0..1), and models of '
    'edges and sketches read white lines on black'
  )


def as_lines(picture: Image.Image) -> np.ndarray:
  """`as_rgb` for an adapter whose conditions are of an unknown kind; warns of `lines_on_white`."""
  condition = as_rgb(picture)
  if said := lines_on_white(condition):
    more = 'if they are meant, invert it: PIL.ImageOps.invert, or magick IN.png -negate OUT.png'
    logging.warning('The condition %s: %s.', said, more)
  return condition


class Task(NamedTuple):
  """What the model is to do.

  Attributes:
    draw: (example, rng) -> dict(image, caption, and what the adapter reads, as `condition`), the
      arrays float32 [H, W, 3] in [0, 1].
    needs: the arrays of a source's examples that it reads; a source that lacks one is refused.
    from_picture: a user's picture, as Pillow opened it -> the condition [H, W, 3] in [0, 1], when
      sampling; [H, W, 4] where the adapter reads a mask too, which is the last. It reads pixels by
      the functions of `images`, which turn the picture upright.
    finish: None, or what is left to do on the accelerator: a batch of examples -> the complete
      batch. It is a pure function of arrays that treats each example alone, so that it may be
      compiled and cut over devices, and all it draws comes from the examples' `draws`.
  """

  draw: Callable[[dict, np.random.Generator], dict]
  from_picture: Callable[[Image.Image], np.ndarray] = as_rgb
  needs: Sequence[str] = ('image',)
  finish: Callable[[dict], dict] | None = None

  def example(self, source: dict, rng: np.random.Generator) -> dict:
    """What is drawn of an example of a source, with the `sizes` of its crop (`types.Text`).

    A source that does not say them gives whole pictures. Where the task has to be finished, the
    example has random bits for it, `draws`, uint32 [2].
    """
    sides = source['image'].shape[:2]
    whole = np.float32([*sides, 0, 0, *sides])
    example = self.draw(source, rng) | dict(sizes=source.get('sizes', whole))
    if self.finish is not None:
      example['draws'] = rng.integers(2**32, size=DRAWS, dtype=np.uint32)
    return example
