"""Endless rendered scenes: pictures, exact depth, captions and edited twins, made from an index."""

import operator

import numpy as np

from cdd.data.scenes import caption, render
from cdd.data.scenes.caption import VOCABULARY
from cdd.data.scenes.edits import edit
from cdd.data.scenes.world import VARIETIES, Scene, sample

__all__ = ['VOCABULARY', 'Scene', 'Scenes', 'edit', 'sample']


class Scenes:
  """A random-access source of rendered scenes; `[i]` depends on the seed and `start + i` only.

  Args:
    size: the picture's side in pixels, or (height, width).
    seed: the world; another seed gives other scenes.
    start: the first scene's number; disjoint ranges of one seed are disjoint splits.
    length: how many scenes there are.
    detail: the probability that a caption names an attribute (shapes and numbers it always names).
    edits: also give an edited twin of every scene.
    variety: of `world.VARIETIES`; 'all', or 'simple': at most two things, without dots, metal,
      wood and striped floors.

  Each example is a dict: `image` float32 [h, w, 3] in 0..1, gamma-encoded; `depth` float32 [h, w],
  the distance along the optical axis in scene units (a sky is at `world.FAR`); `caption`; and, with
  edits, `edited_image`, `edited_caption` and `instruction`.

  Raises:
    ValueError: a setting is out of range.
    IndexError: an index is not in 0..length - 1.
    TypeError: an index or a size is not a whole number.
  """

  def __init__(
    self, size=64, seed=0, start=0, length=1_000_000, detail=0.5, edits=False, variety='all'
  ):
    self.size = checked_size(size)
    for name, value, least in (('seed', seed, 0), ('start', start, 0), ('length', length, 1)):
      if operator.index(value) < least:
        raise ValueError(f'{name} is {value}; it must be {least} or more')
    if not 0 <= detail <= 1:
      raise ValueError(f'detail is {detail}; it must be a probability, 0..1')
    self.seed, self.start, self.length = map(operator.index, (seed, start, length))
    if variety not in VARIETIES:
      raise ValueError(f'variety is {variety!r}; choose one of {[*VARIETIES]}')
    self.detail, self.edits, self.variety = detail, edits, variety

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    scene, rng = self.scene(index)
    image, depth = render.render(scene, self.size)
    example = dict(image=image, depth=depth)
    example['caption'] = caption.caption(scene, rng, self.detail)
    if self.edits:
      edited, instruction, words = edit(scene, rng, self.detail)
      picture, _ = render.render(edited, self.size)
      example.update(edited_image=picture, edited_caption=words, instruction=instruction)
    return example

  def scene(self, index):
    """The scene behind an index, and the generator its words are drawn from next."""
    at = operator.index(index)
    if not 0 <= at < self.length:
      raise IndexError(f'Scene {at} is out of range; choose one of 0..{self.length - 1}')
    rng = np.random.default_rng((self.seed, self.start + at))
    return sample(rng, VARIETIES[self.variety]), rng

  def __repr__(self):
    return (
      f'Scenes(size={self.size}, seed={self.seed}, start={self.start}, length={self.length}, '
      f'detail={self.detail}, edits={self.edits}, variety={self.variety!r})'
    )


def checked_size(size):
  """A size as an int or a pair of ints, each at least 1."""
  sides = tuple(map(operator.index, size if isinstance(size, (tuple, list)) else (size,)))
  if len(sides) not in (1, 2) or min(sides) < 1:
    raise ValueError(f'size is {size}; it must be a side or (height, width) in pixels, 1 or more')
  return sides if len(sides) == 2 else sides[0]
