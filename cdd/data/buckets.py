"""Owns pictures of several shapes in one run: every batch holds crops of one bucket, of one shape.

A picture falls to the bucket whose aspect ratio is nearest to its own, and is reduced until it just
fills it, so that its crops show nearly the whole of it (aspect ratio bucketing: NovelAI, 2022).
"""

import math
from collections.abc import Sequence

from cdd.core.errors import UserError
from cdd.core.words import counted
from cdd.data import transforms
from cdd.data.mixtures import Mixture, rounded
from cdd.data.skips import TooSmall

MOST = 64  # Each compiles a training step of its own.


class Buckets(Mixture):
  """Crops of each bucket as a source of its own, as `parts`, with shares by their pictures.

  `[i]` is of any bucket; who batches examples takes each batch from one part.
  """

  @property
  def buckets(self) -> Mixture:
    return self

  def __repr__(self):
    return f'Buckets({self.parts!r})'


def check(size: Sequence) -> None:
  """Checks sizes of buckets.

  Raises:
    UserError: one is no (height, width), or is there twice, or there are too many.
  """
  for each in size:
    if not isinstance(each, list | tuple):
      raise UserError(f'The size of a data source is {size}; of several, each is (height, width).')
    transforms.check_size(each)
  shapes = [transforms.sides(each) for each in size]
  if len(set(shapes)) < len(shapes) or len(shapes) > MOST:
    raise UserError(
      f'The size of a data source lists {counted(len(shapes), "size")}, of which '
      f'{len(set(shapes))} differ; at most {MOST}, each once.'
    )


def nearest(width: int, height: int, shapes: Sequence) -> tuple[int, int]:
  """The (height, width) of `shapes` that a picture can fill whose aspect ratio is nearest to its.

  Of two that are as near, the larger.

  Raises:
    TooSmall: it can fill none.
  """
  each = [transforms.sides(shape) for shape in shapes]
  fits = [(tall, wide) for tall, wide in each if width >= wide and height >= tall]
  if not fits:
    raise TooSmall(width, height, ' or '.join(map(transforms.spelled, each)))

  def distance(shape):
    tall, wide = shape
    return round(abs(math.log(width * tall / (height * wide))), 9), -tall * wide

  return min(fits, key=distance)


def filling(width: int, height: int, shape: tuple[int, int]) -> tuple[int, int]:
  """The (width, height) of a picture that was reduced until it just fills a (height, width)."""
  tall, wide = shape
  scale = max(wide / width, tall / height)
  return max(wide, round(width * scale)), max(tall, round(height * scale))


def crops(examples: Sequence, *, size, skipped=(), **settings):
  """Random crops of examples that are known by their headers: of one size, or in buckets.

  Args:
    examples: `pictures.Picture`, whose `crop` is one of the sizes.
    skipped, settings: as `transforms.RandomCrops`.
  """
  if not transforms.several(size):
    return transforms.RandomCrops(examples, size=size, skipped=skipped, **settings)
  groups = {}
  for example in examples:
    groups.setdefault(example.crop, []).append(example)
  parts = [
    transforms.RandomCrops(groups[shape], size=shape, skipped=() if n else skipped, **settings)
    for n, shape in enumerate(sorted(groups))
  ]
  return Buckets(parts, rounded([len(groups[shape]) for shape in sorted(groups)]))
