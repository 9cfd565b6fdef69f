"""Owns random crops: each image is decoded once, kept at several scales, cropped anew per index."""

import numpy as np
from PIL import Image

SCALES = (1200, 800, 533, 356, 237)  # Long sides in pixels.
FLAT = 14.0  # A crop whose channels' standard deviation is below this, of 255, counts as flat.
TRIES = 10


def pyramid(image: Image.Image, size: int) -> list[np.ndarray]:
  """The image at the scales that leave room for a crop, uint8 [h, w, 3] each (Lanczos).

  Raises:
    OSError: the file is cut short or no image.
    ValueError: the image is smaller than a crop.
  """
  image = image.convert('RGB')
  levels = []
  for side in (max(image.size), *SCALES):
    factor = side / max(image.size)
    width, height = (round(n * factor) for n in image.size)
    if factor <= 1 and min(width, height) >= size:
      scaled = image if factor == 1 else image.resize((width, height), Image.Resampling.LANCZOS)
      if not levels or levels[-1].shape[0] > 1.2 * height:
        levels.append(np.asarray(scaled))
  if not levels:
    raise ValueError(f'{image.size[0]}x{image.size[1]} pixels, smaller than a crop of {size}')
  return levels


class RandomCrops:
  """Endless crops; `[i]` depends on the seed and i alone.

  Attributes:
    skipped: names of the images that could not be read.
  """

  def __init__(self, images, captions, *, size, seed, length, label, skipped=()):
    self._images, self._captions = images, captions
    self._size, self._seed, self._length, self._label = size, seed, length, label
    self.skipped = list(skipped)

  def __len__(self):
    return self._length

  def __getitem__(self, index):
    index = int(index)
    if not 0 <= index < self._length:
      raise IndexError(f'Crop {index} is out of range; choose one of 0..{self._length - 1}.')
    rng = np.random.default_rng((self._seed, index))
    which = int(rng.integers(len(self._images)))
    tries = 1 if rng.random() < 0.1 else TRIES  # A tenth may be flat, as photographs are.
    for _ in range(tries):
      crop = self._crop(self._images[which], rng)
      if crop.std(axis=(0, 1)).mean() >= FLAT:
        break
    image = crop.astype(np.float32) / 255
    return dict(image=image, caption=self._captions[which])

  def _crop(self, levels, rng):
    level = levels[int(rng.integers(len(levels)))]
    top = int(rng.integers(level.shape[0] - self._size + 1))
    left = int(rng.integers(level.shape[1] - self._size + 1))
    crop = level[top : top + self._size, left : left + self._size]
    return crop[:, ::-1] if rng.random() < 0.5 else crop

  def __repr__(self):
    return self._label
