"""A task: pictures from their negatives, with a mask of where those are dark."""

from cdd.data.tasks.task import Task, as_rgb


def inverted(*, least: float = 0.5) -> Task:
  """Images from negatives; `mask` is 1 where the negative is below `least`."""

  def draw(example, rng):
    negative = 1 - example['image']
    mask = (negative < least).astype(negative.dtype)
    return dict(image=example['image'], condition=negative, mask=mask, caption=example['caption'])

  return Task(draw, lambda picture: 1 - as_rgb(picture))
