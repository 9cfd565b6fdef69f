"""Owns plain text-to-image, as a prior is trained: no condition but the caption."""

from cdd.data.tasks.task import Task


def text_to_image() -> Task:
  """Examples as they are, with nothing but image and caption."""
  return Task(lambda example, rng: dict(image=example['image'], caption=example['caption']))
