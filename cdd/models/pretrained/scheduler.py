"""Owns scheduler_config.json: the noise schedule and the prediction that a U-Net was trained with.

The fields of diffusers' own samplers (steps_offset, set_alpha_to_one, timestep_spacing, clip_sample
and the like) change neither; they are kept for diffusers, and our samplers have settings of theirs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdd.diffusion import parametrizations, schedules
from cdd.errors import UserError
from cdd.models.pretrained import weights

NAME = 'scheduler_config.json'
# Families whose noise is no table of β.
OTHERS = ('EDM', 'FlowMatch', 'KarrasVe', 'ScoreSdeVe', 'VQDiffusion')


def read(folder: Path) -> dict[str, Any]:
  """The fields of the folder's scheduler; {} if there is none.

  Raises:
    UserError: a field asks for what is not supported.
  """
  if not folder.is_dir():
    return {}
  fields = weights.read_json(folder / NAME)
  try:
    check(fields)
  except ValueError as error:
    raise UserError(f'{folder / NAME}: {error}') from error
  return fields


def check(fields: Mapping[str, Any]) -> None:
  """Raises:
  ValueError: names the field that is not supported.
  """
  name = fields.get('_class_name') or ''
  if name.startswith(OTHERS):
    raise UserError(f'The noise of {name} is no table of betas.')
  if fields.get('thresholding'):
    raise UserError('thresholding=True is for models of pixels; choose false.')
  if 'learned' in (fields.get('variance_type') or ''):
    raise UserError(f'variance_type={fields["variance_type"]!r}: learned variances are not read.')
  kind = fields.get('prediction_type', 'epsilon')
  if kind not in parametrizations.KINDS:
    raise UserError(
      f'Unknown prediction_type {kind!r}; choose one of {sorted(parametrizations.KINDS)}.'
    )
  schedules.from_diffusers(fields)
