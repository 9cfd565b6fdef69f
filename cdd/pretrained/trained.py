"""Owns the file of a run's trained parameters: float16 safetensors under torch's names."""

from pathlib import Path

import numpy as np

from cdd.core import files
from cdd.core.errors import UserError
from cdd.core.types import Params
from cdd.pretrained import names, tensors

NAME = 'trained.safetensors'


def save(params: Params, path: Path) -> None:
  """Writes parameters as float16."""
  with files.atomic(path) as new:
    tensors.write(new, names.to_tensors(params), np.float16)


def load(path: Path, shapes: Params) -> Params:
  """Reads what `save` wrote, float32; `shapes` has the paths and shapes wanted.

  Raises:
    UserError: the file is missing, cut short, or does not fit.
  """
  if not Path(path).exists():
    raise UserError(f'There are no trained weights at {path}.')
  return names.convert(tensors.read(path), shapes, str(path))
