"""Owns Weights & Biases: a run of ours is one run of a project there, however often it is resumed.

WANDB_MODE=offline keeps it on the disk, until `wandb sync`.
"""

import importlib
import secrets
from collections.abc import Mapping

import numpy as np

from cdd.core import files
from cdd.core.errors import UserError
from cdd.training.boards.board import About


class WandB:
  """A run of the project `project`.

  A step that a stopped run had written after its checkpoint keeps its first values: Weights &
  Biases takes every step once.
  """

  def __init__(self, run: About, project: str):
    self._api = _imported()
    try:
      self._run = self._api.init(
        project=project,
        name=run.name,
        id=_identity(run),
        resume='allow',
        dir=str(run.workdir),
        config=dict(run.config),
        settings=self._api.Settings(console='off'),
      )
    except self._api.errors.Error as error:
      reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
      raise UserError(
        f'Weights & Biases refuses the run of config.log.wandb={project}: {reason} Log in by '
        '`wandb login`, set WANDB_MODE=offline, or leave config.log.wandb out.'
      ) from error

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    self._run.log(dict(scalars), step=step)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    self._run.log({name: self._api.Image(image) for name, image in images.items()}, step=step)

  def flush(self) -> None:
    """What was logged is sent in the background."""

  def close(self) -> None:
    self._run.finish()


def _imported():
  """The package, which is optional.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module('wandb')
  except ImportError as error:
    raise UserError(
      "config.log.wandb needs Weights & Biases: pip install 'cdd-jax[wandb]', or leave it out."
    ) from error


def _identity(run: About) -> str:
  """The name of the run there: made when it starts, the same when it goes on."""
  path = run.workdir / 'wandb' / 'run_id'
  if not (run.step and path.exists()):
    files.write(path, secrets.token_hex(4))
  return path.read_text()
