"""Owns scheduler_config.json: what a U-Net was trained with, and how it is meant to be sampled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.diffusion import parametrizations, schedules, times
from cdd.diffusion.samplers.lcm import SCALING
from cdd.pretrained import weights

NAME = 'scheduler_config.json'
# Families whose noise is no table of β.
OTHERS = ('EDM', 'FlowMatch', 'KarrasVe', 'ScoreSdeVe', 'VQDiffusion')

CLIPPING = ('DDIMScheduler', 'DDPMScheduler')  # They clip unless a field says otherwise.


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
  if name == 'LCMScheduler':
    check_lcm(fields)
  if fields.get('thresholding'):
    raise UserError('thresholding=True is for models of pixels; choose false.')
  if 'learned' in (fields.get('variance_type') or ''):
    raise UserError(f'variance_type={fields["variance_type"]!r}: learned variances are not read.')
  kind = fields.get('prediction_type', 'epsilon')
  if kind not in parametrizations.KINDS:
    raise UserError(
      f'Unknown prediction_type {kind!r}; choose one of {sorted(parametrizations.KINDS)}.'
    )
  if kind == 'epsilon' and fields.get('rescale_betas_zero_snr'):
    raise UserError(
      'prediction_type is epsilon and rescale_betas_zero_snr is true: noise that hides all of an '
      'image says nothing about it. Choose v_prediction, or false.'
    )
  if 'timestep_spacing' in fields:
    choose(times.SPACINGS, fields['timestep_spacing'], 'timestep_spacing')
  schedules.from_diffusers(fields)


def check_lcm(fields: Mapping[str, Any]) -> None:
  """Refuses fields of an LCMScheduler with which the sampler 'lcm' would do something else."""
  only = dict(original_inference_steps=times.LCM_TIMES, timestep_scaling=SCALING)
  for field, value in (only | dict(clip_sample=False)).items():
    if fields.get(field, value) != value:
      raise UserError(
        f'{field} is {fields[field]!r} of an LCMScheduler; only {value} is supported.'
      )


def timesteps(fields: Mapping[str, Any]) -> times.Timesteps:
  """How the folder says it is to be sampled, as `DDIMScheduler.from_config` reads its fields.

  Whatever its class: those of other samplers of diffusers (PNDM, Euler) carry the same fields. One
  that does not know clip_sample does not clip.
  """
  clips = fields.get('clip_sample', fields.get('_class_name') in CLIPPING)
  return times.Timesteps(
    spacing=fields.get('timestep_spacing', 'leading'),
    offset=fields.get('steps_offset', 0),
    last=0 if fields.get('set_alpha_to_one', True) else 1,
    clip=fields.get('clip_sample_range', 1.0) if clips else None,
  )


def of_run(fields: Mapping[str, Any]) -> dict[str, Any]:
  """The fields with which diffusers samples a model as we do: DDIM by `Timesteps()`."""
  ours = dict(timestep_spacing='trailing', set_alpha_to_one=True, clip_sample=False)
  # 'trailing' does not read it; of any other number the pipelines of diffusers warn.
  ours['steps_offset'] = 1
  return {**fields, '_class_name': 'DDIMScheduler', **ours}
