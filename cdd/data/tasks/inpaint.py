"""Owns inpainting: the condition is a picture with a hole, the mask says where the hole is."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.data import images
from cdd.data.tasks.task import Task, as_rgb

GREY = 0.5  # What a hole is filled with: 0 where the autoencoder sees pixels in [-1, 1].
TRIES = 20


def inpaint(
  *, masks: str = 'drawn', area: Sequence[float] = (0.05, 0.6), whole: float = 0.1
) -> Task:
  """Images from what a mask leaves of them, as Stable Diffusion's inpainting models are trained.

  `mask` is float32 [h, w, 1], 1 where the picture is to be painted and 0 where it is kept;
  `condition` is float32 [h, w, 3], the image with the masked pixels at 0.5. A mask is black and
  white: a source's is 1 where it is at least a half.

  Args:
    masks: 'drawn' draws them (`random_mask`); 'source' reads the source's `mask`, and draws one
      for a crop in which there is nothing of it.
    area: the least and the greatest share of the picture that a drawn mask covers.
    whole: how often a drawn mask covers all of the picture.

  Raises:
    UserError: an unknown kind of masks, or shares that are none.
  """
  choose(dict.fromkeys(('drawn', 'source')), masks, 'kind of masks')
  if len(area) != 2 or not 0 < area[0] < area[1] <= 1 or not 0 <= whole <= 1:
    raise UserError(
      f'The task inpaint has area {tuple(area)} and whole {whole}; they must be '
      '0 < least < greatest <= 1 and 0..1.'
    )

  def drawn(size, rng):
    if rng.random() < whole:
      return np.ones((*size, 1), np.float32)
    return random_mask(size, rng, area)

  def draw(example, rng):
    image, mask = example['image'], np.zeros(0)
    if masks == 'source':
      mask = (example['mask'] >= 0.5).astype(np.float32)[:, :, None]
    if not mask.any():
      mask = drawn(image.shape[:2], rng)
    return dict(image=image, condition=holed(image, mask), mask=mask, caption=example['caption'])

  needs = ('image', 'mask') if masks == 'source' else ('image',)
  return Task(draw, from_picture, needs=needs)


def from_picture(picture: Image.Image) -> np.ndarray:
  """A user's picture, to be painted where it is transparent, as float32 [h, w, 4].

  The condition and, in the last channel, the mask.

  Raises:
    images.Unreadable: nothing of it is transparent.
  """
  mask = (images.opacity(picture) < 0.5).astype(np.float32)[:, :, None]
  if not mask.any():
    raise images.Unreadable(
      'nothing of it is transparent, so that nothing is to be painted; give a mask beside it, or a '
      'picture with transparent pixels'
    )
  return np.concatenate([holed(as_rgb(picture), mask), mask], axis=2)


def holed(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """The image with what is masked made grey, float32 [h, w, 3]."""
  return np.where(mask > 0.5, np.float32(GREY), image).astype(np.float32)


def random_mask(
  size: tuple[int, int], rng: np.random.Generator, area: Sequence[float]
) -> np.ndarray:
  """A mask [h, w, 1] of brush strokes or of boxes, as LaMa's (Suvorov et al., 2022, Appendix A).

  Shapes are added until the least share is covered; one that would cover more than the greatest
  share is left out.
  """
  height, width = size
  shape = strokes if rng.random() < 0.5 else boxes
  mask = np.zeros(size, bool)
  for _ in range(TRIES):
    canvas = Image.new('1', (width, height))
    shape(ImageDraw.Draw(canvas), (width, height), rng)
    more = mask | np.asarray(canvas)
    if more.mean() <= area[1]:
      mask = more
    if mask.mean() >= area[0] and rng.random() < 0.5:
      break
  if mask.mean() < area[0]:  # Every shape was too large: a box of an area in between.
    share = np.sqrt(rng.uniform(*area))
    sides = [max(1, int(share * side)) for side in size]
    top, left = (int(rng.integers(s - n + 1)) for s, n in zip(size, sides, strict=True))
    mask[top : top + sides[0], left : left + sides[1]] = True
  return mask.astype(np.float32)[:, :, None]


def strokes(canvas: ImageDraw.ImageDraw, size: tuple[int, int], rng) -> None:
  """A line of several parts, as wide as a brush."""
  side = min(size)
  brush = max(1, round(side * rng.uniform(0.05, 0.2)))
  x, y = rng.uniform(0, size)
  angle = rng.uniform(0, 2 * np.pi)
  for _ in range(int(rng.integers(2, 6))):
    angle += rng.uniform(-1.5, 1.5)
    length = side * rng.uniform(0.1, 0.4)
    end = x + length * np.cos(angle), y + length * np.sin(angle)
    canvas.line([(x, y), end], fill=1, width=brush)
    for centre in ((x, y), end):
      canvas.ellipse([c + d for d in (-brush / 2, brush / 2) for c in centre], fill=1)
    x, y = end


def boxes(canvas: ImageDraw.ImageDraw, size: tuple[int, int], rng) -> None:
  """A box."""
  sides = [max(1, int(n * rng.uniform(0.1, 0.5))) for n in size]
  left, top = (int(rng.integers(n - s + 1)) for n, s in zip(size, sides, strict=True))
  canvas.rectangle([left, top, left + sides[0] - 1, top + sides[1] - 1], fill=1)
