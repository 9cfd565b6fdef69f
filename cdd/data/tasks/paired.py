"""Owns conditions that lie ready beside the images: edges, poses, segmentations, sketches, ..."""

from cdd.data.tasks.task import Task


def paired() -> Task:
  """Images from the condition pictures that the source has for them, as they are.

  The example's `condition` is float32 [h, w, 3] in 0..1, aligned with the image. It is what
  ControlNet's training calls the source or the conditioning image.
  """

  def draw(example, rng):
    del rng
    return {name: example[name] for name in ('image', 'condition', 'caption')}

  return Task(draw, needs=('image', 'condition'))
