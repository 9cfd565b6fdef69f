"""Owns plain text-to-image, as a prior is trained: no condition but the caption."""


def text_to_image():
  """Makes the task `(example, rng) -> dict(image, caption)`."""
  return lambda example, rng: dict(image=example['image'], caption=example['caption'])
