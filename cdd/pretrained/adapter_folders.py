"""Owns adapters on disk: diffusers' folders, read and written, and the files of the originals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from cdd.core import files, places
from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.core.types import Params
from cdd.models import functional
from cdd.models.adapters import ADAPTERS, concat, t2i_adapter
from cdd.models.adapters.adapter import Spec, parameters
from cdd.models.unet import UNet2DConditionModel, UNetConfig, at
from cdd.pretrained import families, names, original, tensors, weights

STEM = 'diffusion_pytorch_model'
DECODER = ('out_channels', 'up_block_types', 'sample_size')  # Fields that an encoder does not have.
# What a copy of the encoder and the U-Net it is added to must agree in.
SHARED = (
  'in_channels',
  'block_out_channels',
  'layers_per_block',
  'cross_attention_dim',
  'addition_embed_type',
)
HOW_TO_CONVERT = (
  'With PyTorch, convert it: python -c "import torch; from safetensors.torch import save_file; '
  "save_file(torch.load('OLD', weights_only=True), 'NEW.safetensors')\""
)
FAMILIES = {768: 'Stable Diffusion 1', 1024: 'Stable Diffusion 2', 2048: 'SDXL'}


class Layout(NamedTuple):
  """How one adapter lies on disk.

  Attributes:
    kind: the class that config.json names.
    fields: our setting -> its field in config.json.
    omit: the fields of UNetConfig that are not written; None: all of them.
  """

  kind: str
  fields: Mapping[str, str]
  omit: tuple[str, ...] | None


def same(*names: str) -> dict[str, str]:
  """Settings whose fields have the same names."""
  return {name: name for name in names}


LAYOUTS = dict(
  concat=Layout('UNet2DConditionModel', {}, ()),
  controlnet=Layout(
    'ControlNetModel',
    dict(
      hint_widths='conditioning_embedding_out_channels',
      channel_order='controlnet_conditioning_channel_order',
      conditioning_channels='conditioning_channels',
    ),
    DECODER,
  ),
  mu_mix=Layout('MuMixAdapter', same('per_level', 'sees_t', 'masked'), DECODER),
  t2i_adapter=Layout(
    'T2IAdapter',
    {'kind': 'adapter_type'}
    | same('channels', 'in_channels', 'downscale_factor', 'num_res_blocks'),
    None,
  ),
)


def config_of(path: Path) -> Spec:
  """Which adapter a folder in diffusers' layout holds.

  Raises:
    UserError: there is none, or one that cannot be run here.
  """
  places.refuse_missing(path, 'adapter')
  path = Path(path).expanduser()
  fields = weights.read_json(path / 'config.json')
  kinds = {layout.kind: name for name, layout in LAYOUTS.items()}
  kind = fields.get('_class_name')
  if kind not in kinds:
    raise UserError(f'{path} holds a {kind!r}, not an adapter; choose one of {sorted(kinds)}.')
  if fields.get('global_pool_conditions'):
    raise UserError(f'{path}: a ControlNet with global_pool_conditions is not supported.')
  name = kinds[kind]
  layout = LAYOUTS[name]

  def frozen(value):
    return tuple(value) if isinstance(value, list) else value

  settings = {
    ours: frozen(fields[field]) for ours, field in layout.fields.items() if field in fields
  }
  if layout.omit is None:
    if absent := sorted(layout.fields.values() - fields.keys()):
      raise UserError(f'{path}: config.json has no {absent}.')
    return Spec(name, None, settings)
  try:
    unet = families.parse('unet', with_decoder(fields))
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  if name == 'concat':
    settings = dict(masked=masked(unet, path))
  return Spec(name, unet, settings)


def masked(unet: UNetConfig, path: Path) -> bool:
  """Whether a U-Net that reads a condition beside z reads a mask too.

  Raises:
    UserError: it does not read a condition.
  """
  choices = {concat.inputs(unet.out_channels, masked): masked for masked in (False, True)}
  if unet.in_channels not in choices:
    raise UserError(
      f'{path} holds a U-Net of {unet.in_channels} input channels; one that reads a condition '
      f'beside its {unet.out_channels} has {min(choices)}, or {max(choices)} with a mask.'
    )
  return choices[unet.in_channels]


def with_decoder(fields: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of an encoder's config.json with those of a decoder that mirrors it."""
  down = fields.get('down_block_types', ())
  mirrored = [kind.replace('Down', 'Up') for kind in reversed(down)]
  return {'up_block_types': mirrored, 'out_channels': fields.get('in_channels', 4), **fields}


def module(spec: Spec, *, dtype=np.float32) -> nnx.Module:
  """What the weights on disk belong to: the adapter, or the whole U-Net of 'concat'."""
  if spec.name == 'concat':
    return UNet2DConditionModel(spec.unet, dtype=dtype, rngs=functional.Keys(0))
  return ADAPTERS[spec.name](spec.unet, dtype=dtype, rngs=functional.Keys(0), **spec.settings)


def load(path: Path, spec: Spec, *, variant: str | None = None, **options) -> Params:
  """The weights of a folder, or of a .safetensors file in diffusers' or the original's layout.

  Args:
    spec: `config_of(path)`; for a file alone, what it should hold.
    variant: as in diffusion_pytorch_model.fp16.safetensors.
    options: those of `names.convert` (dtype, place).

  Returns:
    A flat tree with the paths of `module(spec)`.

  Raises:
    UserError: the file is missing or broken, or lists every tensor that does not fit.
  """
  path = Path(path).expanduser()
  if path.suffix in weights.PICKLES:
    raise UserError(f'{path} is a pickle, which runs code when it is read. {HOW_TO_CONVERT}')
  stored = tensors.read(path) if path.is_file() else weights.read(path, STEM, variant)
  shapes = functional.abstract(lambda: module(spec))[1]
  if spec.name in original.LAYOUTS:
    table = original.LAYOUTS[spec.name](spec.unet, **spec.settings)
    stored = original.renamed(table, stored, map(names.torch_key, shapes))
  return names.convert(stored, shapes, str(path), **options)


def save(spec: Spec, params: Params, folder: Path, *, dtype=np.float16) -> None:
  """Writes a folder that diffusers' class of the adapter reads; complete, or not at all.

  Args:
    params: a flat tree with the paths of `module(spec)`.
    dtype: what the weights are cast to.
  """
  layout = LAYOUTS[spec.name]
  fields = {}
  if layout.omit is not None:
    unet = families.written('unet', spec.unet, {}, dtype)
    fields = {name: unet[name] for name in unet if name not in layout.omit}
  fields |= {'_class_name': layout.kind, '_diffusers_version': '0.36.0'}
  settings = defaults(spec) | spec.settings
  fields |= {field: settings[ours] for ours, field in layout.fields.items()}
  with files.atomic(folder) as new:
    new.mkdir()
    files.write_json(new / 'config.json', fields)
    weights.write(new, STEM, names.to_tensors(params), dtype=dtype)


def defaults(spec: Spec) -> dict[str, Any]:
  """The settings of an adapter, as they are where its spec does not name them."""
  given = parameters(ADAPTERS[spec.name])
  if spec.name == 't2i_adapter':
    kind = t2i_adapter.KINDS[spec.settings.get('kind', given['kind'])]
    given |= dict(downscale_factor=kind.downscale_factor, num_res_blocks=kind.num_res_blocks)
    if spec.unet:
      given['channels'] = kind.channels(spec.unet.block_out_channels)
  return given


def start(settings: Mapping[str, Any], unet: UNetConfig) -> tuple[Spec, Params | None]:
  """What `config.model.adapter` asks for: the adapter, and its weights where it names a `path`.

  Args:
    settings: `dict(name='controlnet', path='folder')`; without a path the settings of the adapter.
      A path is a folder in diffusers' layout, or a .safetensors file in that or the original's.
    unet: the U-Net that it is added to.

  Raises:
    UserError: an unknown name or setting, or what is at `path` is another adapter or does not fit.
  """
  settings = dict(settings)
  path = settings.pop('path', None)
  name = settings.pop('name')
  choose(ADAPTERS, name, 'adapter')
  unet = unet._replace(time_cond_proj_dim=None)  # A copy of the encoder is not given the step.
  for setting in settings:
    choose(parameters(ADAPTERS[name]) | dict(path=None), setting, f'setting of adapter {name!r}:')
  if not path:
    return Spec(name, unet, settings), None
  if name not in LAYOUTS:
    raise UserError(f'The adapter {name!r} has no weights to load from {str(path)!r}.')
  spec = Spec(name, unet, settings)
  places.refuse_missing(path, 'adapter')
  if not Path(path).expanduser().is_file():
    spec = config_of(path)
    if spec.name != name:
      held = LAYOUTS[spec.name].kind
      raise UserError(
        f'{path} holds a {held} (the adapter {spec.name!r}), not a {LAYOUTS[name].kind} for '
        f'{name!r}.'
      )
    spec = spec._replace(settings=spec.settings | settings)
    fit(spec, unet, path)
  return spec, load(path, spec)


def fit(spec: Spec, unet: UNetConfig, where: Path) -> None:
  """A UserError, naming both, if an adapter cannot be added to a U-Net."""
  if spec.name == 't2i_adapter':
    kind = t2i_adapter.KINDS[spec.settings.get('kind', 'full_adapter')]
    pairs = dict(channels=(spec.settings['channels'], kind.channels(unet.block_out_channels)))
  else:
    pairs = {field: (getattr(spec.unet, field), getattr(unet, field)) for field in SHARED}
    if spec.name == 'concat':
      wanted = concat.inputs(unet.out_channels, spec.settings['masked'])
      pairs['in_channels'] = (spec.unet.in_channels, wanted)
  wrong = [f'{field} is {a}, not {b}' for field, (a, b) in pairs.items() if a != b]
  if wrong:
    adapter = LAYOUTS[spec.name].kind + (f' for {family(spec.unet)}' if spec.unet else '')
    raise UserError(
      f'The {adapter} at {where} does not fit the U-Net of {family(unet)}: ' + ', '.join(wrong)
    )


def family(unet: UNetConfig) -> str:
  """Whose U-Net it is, by the width of the text that it reads."""
  width = at(unet.cross_attention_dim, -1)
  return FAMILIES.get(width, f'a model of text width {width}')
