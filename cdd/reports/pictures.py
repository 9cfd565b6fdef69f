"""Owns the pictures of a report, with alt texts: two methods side by side, or one alone."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cdd.core.words import counted
from cdd.reports import grid

EXAMPLES = 8  # Held-out examples in a picture.
FEW, MANY = (1, 2, 4), (1, 4, 50)  # The numbers of steps side by side: of ours, of the rival.

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


def side_by_side(method: str, rival: str | None, shown: Shown, batch: Mapping) -> Picture | None:
  """Few steps of a method and more of its rival; None if one of them is not shown.

  Args:
    shown: (method, steps) -> images [n, H, W, 3] in [0, 1], of the first held-out examples.
    batch: the truth as `image`, and `condition` where there is one.
  """
  few = [(method, steps) for steps in FEW if (method, steps) in shown]
  many = [(rival, steps) for steps in MANY if (rival, steps) in shown]
  heading = f'{method} side by side'
  return picture(heading, few + many, shown, batch) if few and many else None


def alone(method: str, shown: Shown, batch: Mapping) -> Picture | None:
  """A method with all its numbers of steps; None if it is not shown."""
  keys = [key for key in shown if key[0] == method]
  return picture(method, keys, shown, batch) if keys else None


def picture(heading: str, keys: Sequence, shown: Shown, batch: Mapping) -> Picture:
  """One row per example: the condition, what each of `keys` made of it, and the truth."""
  columns = [('condition', '', batch['condition'])] if 'condition' in batch else []
  columns += [(name, counted(steps, 'step'), shown[name, steps]) for name, steps in keys]
  columns.append(('truth', '', batch['image']))
  count = min(EXAMPLES, *(len(images) for _, _, images in columns))
  said = ', '.join(f'{name} at {steps}' if steps else name for name, steps, _ in columns)
  alt = f'The first {count} held-out examples, one in each row. Columns: {said}.'
  drawn = {_label(name, steps): images[:count] for name, steps, images in columns}
  return Picture(heading, alt, grid.grid(drawn))


def save(folder: Path, picture: Picture) -> None:
  """Writes a picture as a PNG file, called by its heading."""
  name = re.sub(r'\W+', '_', picture.heading).strip('_').lower()
  grid.save_png(folder / f'{name}.png', picture.image)


def _label(name: str, steps: str) -> str:
  """'undistilled (200 updates)' takes a line more: a column is narrow."""
  name = name.replace(' (', '\n(')
  return f'{name}\n{steps}' if steps else name
