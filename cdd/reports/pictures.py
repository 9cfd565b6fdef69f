"""Owns the pictures of a report, with alt texts: two methods side by side, then every method."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cdd.reports import grid

EXAMPLES = 8  # Held-out examples in a picture.
FEW, MANY = (1, 4), (1, 4, 50)  # The numbers of steps side by side: of ours, of the rival.

Shown = Mapping[tuple[str, int], np.ndarray]


class Picture(NamedTuple):
  """A picture of the page.

  Attributes:
    heading: what stands above it.
    alt: what it shows, in words.
    image: uint8 [H, W, 3].
  """

  heading: str
  alt: str
  image: np.ndarray


def pictures(method: str, rival: str | None, shown: Shown, batch: Mapping) -> list[Picture]:
  """The method and its rival side by side if both are shown, then each method with all its steps.

  Args:
    shown: (method, steps) -> images [n, H, W, 3] in [0, 1], of the first held-out examples.
    batch: the truth as `image`, and `condition` where there is one.
  """
  few = [(method, steps) for steps in FEW if (method, steps) in shown]
  many = [(rival, steps) for steps in MANY if (rival, steps) in shown]
  out = [picture('Side by side', few + many, shown, batch)] if few and many else []
  for name in dict.fromkeys(name for name, _ in shown):
    out.append(picture(name, [key for key in shown if key[0] == name], shown, batch))
  return out


def picture(heading: str, keys: Sequence, shown: Shown, batch: Mapping) -> Picture:
  """One row per example: the condition, what each of `keys` made of it, and the truth."""
  columns = {'condition': batch['condition']} if 'condition' in batch else {}
  for name, steps in keys:
    columns[f'{name}\n{steps} step{"s" * (steps > 1)}'] = shown[name, steps]
  columns['truth'] = batch['image']
  columns = {label: images[:EXAMPLES] for label, images in columns.items()}
  count = min(map(len, columns.values()))
  what = ', '.join(label.replace('\n', ' at ') for label in columns)
  alt = f'The first {count} held-out examples, one in each row. Columns: {what}.'
  return Picture(heading, alt, grid.grid(columns))
