"""Endless rendered scenes: pictures, exact depth, captions and edited twins, made from an index."""

import operator

import numpy as np

from cdd.data.scenes import caption, render, world


class Scenes:
  """A random-access source of rendered scenes: `scenes[i]` depends on the seed and `start + i` only.

  Args:
    size: the picture's side in pixels, or (height, width).
    seed: the world; another seed gives other scenes.
    start: the first scene's number; disjoint ranges are disjoint splits.
    length: how many scenes there are.
    detail: the probability that a caption tells an attribute.
    edits: also give an edited twin of every scene.

  Each example is a dict: `image` float32 [h, w, 3] in 0..1, gamma-encoded; `depth` float32 [h, w], the
  distance along the optical axis in scene units; `caption`; and, with edits, `edited_image`,
  `edited_caption` and `instruction`.
  """

  def __init__(self, size=64, seed=0, start=0, length=1_000_000, detail=0.5, edits=False):
    self.size = size
    self.seed, self.start, self.length = seed, start, length
    self.detail, self.edits = detail, edits

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    index = operator.index(index)
    if not 0 <= index < self.length:
      raise IndexError(f'Scene {index} is out of range; choose one of 0..{self.length - 1}')
    rng = np.random.default_rng((self.seed, self.start + index))
    scene = world.sample(rng)
    image, depth = render.render(scene, self.size)
    return dict(image=image, depth=depth, caption=caption.caption(scene, rng, self.detail))

  def __repr__(self):
    return (
      f'Scenes(size={self.size}, seed={self.seed}, start={self.start}, length={self.length}, '
      f'detail={self.detail}, edits={self.edits})'
    )
