"""Owns what a task is, and how a picture of a user becomes an array."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from cdd.data import images


def as_rgb(picture: Image.Image) -> np.ndarray:
  """A picture, upright and on white, as float32 [H, W, 3] in [0, 1]; see `images.rgb`."""
  return np.asarray(images.rgb(picture), np.float32) / 255


class Task(NamedTuple):
  """What the model is to do.

  Attributes:
    draw: (example, rng) -> dict(image, caption, and what the adapter reads, as `condition`), the
      arrays float32 [H, W, 3] in [0, 1].
    needs: the arrays of a source's examples that it reads; a source that lacks one is refused.
    from_picture: a user's picture, as Pillow opened it -> the condition [H, W, 3] in [0, 1], when
      sampling; [H, W, 4] where the adapter reads a mask too, which is the last. It reads pixels by
      the functions of `images`, which turn the picture upright.
  """

  draw: Callable[[dict, np.random.Generator], dict]
  from_picture: Callable[[Image.Image], np.ndarray] = as_rgb
  needs: Sequence[str] = ('image',)

  def example(self, source: dict, rng: np.random.Generator) -> dict:
    """What is drawn of an example of a source, with the `sizes` of its crop (`types.Text`).

    A source that does not say them gives whole pictures.
    """
    sides = source['image'].shape[:2]
    whole = np.float32([*sides, 0, 0, *sides])
    return self.draw(source, rng) | dict(sizes=source.get('sizes', whole))
