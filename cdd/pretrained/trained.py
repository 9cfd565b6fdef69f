"""Owns a run's trained parameters on disk: float16 safetensors under torch's names, at its end."""

from pathlib import Path

import numpy as np

from cdd.core import files, places
from cdd.core.errors import UserError
from cdd.core.types import Params
from cdd.pretrained import names, tensors
from cdd.training import checkpoint

NAME = 'trained.safetensors'


def save(params: Params, path: Path) -> None:
  """Writes parameters as float16."""
  with files.atomic(path) as new:
    tensors.write(new, names.to_tensors(params), np.float16)


def load(path: Path, shapes: Params) -> Params:
  """Reads what `save` wrote, or the folder of a checkpoint, float32.

  Args:
    shapes: the paths and shapes wanted.

  Raises:
    UserError: the file is missing, cut short, or does not fit.
  """
  places.refuse_missing(path, 'file of trained weights')
  path = Path(path).expanduser()
  if path.is_dir():
    return of_checkpoint(path, shapes)
  return names.convert(tensors.read(path), shapes, str(path))


def of_checkpoint(folder: Path, shapes: Params) -> Params:
  """What a run would export at this checkpoint.

  Raises:
    UserError: it is damaged, does not fit, or holds an autoencoder that is not finished.
  """
  if any(path.startswith('vae.') for path in shapes):
    raise UserError(
      f'{folder} is of a run that trains an autoencoder: the scale of its latents is measured when '
      'the run ends.'
    )
  params = checkpoint.evaluated(folder)
  if {k: v.shape for k, v in params.items()} != {k: v.shape for k, v in shapes.items()}:
    raise UserError(f'{folder} does not hold the parameters that its config.json describes.')
  return params
