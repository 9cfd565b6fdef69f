"""Owns the first held-out examples of an evaluation as a file, for pages that show them again."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cdd.core import files
from cdd.reports import grid
from cdd.reports.pictures import EXAMPLES, Shown

NAME = 'examples.npz'


def write(folder: Path, method: str, shown: Shown, batch: Mapping) -> None:
  """Writes what a method made of the first examples, their truth and their condition, in 8 bits.

  Args:
    shown: (method, steps) -> images [n, H, W, 3] in [0, 1].
    batch: `image`, and `condition` where there is one.
  """
  columns = {
    f'steps_{steps}': images for (label, steps), images in shown.items() if label == method
  }
  columns |= {
    name: batch[key]
    for name, key in (('truth', 'image'), ('condition', 'condition'))
    if key in batch
  }
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **{k: grid.to_uint8(v[:EXAMPLES]) for k, v in columns.items()})
  files.write(Path(folder) / NAME, buffer.getvalue())


def read(folder: Path) -> dict[str, np.ndarray]:
  """`truth`, `condition` and `steps_N`, each [n, H, W, 3] in [0, 1]; empty where there are none."""
  path = Path(folder) / NAME
  if not path.exists():
    return {}
  with np.load(path) as arrays:
    return {name: np.float32(arrays[name]) / 255 for name in arrays.files}
