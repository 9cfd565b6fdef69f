"""Owns instructed editing: the condition is a picture, the text says what to change in it."""

from cdd.data.tasks.task import Task


def instruct_edit() -> Task:
  """Edited images from the images and instructions (InstructPix2Pix: Brooks et al., 2023).

  The example's `edited_image` becomes the image to draw, its `image` the condition, both float32
  [h, w, 3] in 0..1; its `instruction` becomes the caption, or its caption does where a source knows
  one text alone.
  """

  def draw(example, rng):
    del rng
    instruction = example.get('instruction', example['caption'])
    return dict(image=example['edited_image'], condition=example['image'], caption=instruction)

  return Task(draw, needs=('image', 'edited_image'))
