"""Owns the file of a run's trained parameters: float16 safetensors under torch's names."""

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cdd.errors import UserError
from cdd.models.pretrained import names
from cdd.types import Params


def save(params: Params, path: Path) -> None:
  """Writes parameters as float16, whole or not at all."""
  tensors = {
    names.torch_key(name): np.ascontiguousarray(names.to_torch(name, leaf), np.float16)
    for name, leaf in params.items()
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  save_file(tensors, temporary)
  os.replace(temporary, path)


def load(path: Path, shapes: Params) -> Params:
  """Reads what `save` wrote, float32; `shapes` has the paths and shapes wanted.

  Raises:
    UserError: the file is missing, cut short, or does not fit.
  """
  if not Path(path).exists():
    raise UserError(f'There are no trained weights at {path}.')
  try:
    tensors = load_file(path)
  except (SafetensorError, OSError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error
  return names.convert(tensors, shapes, str(path))
