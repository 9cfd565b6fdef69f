"""Owns the diffusers folder layout: reading a text-to-image pipeline, and writing one. No torch."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cdd.errors import UserError
from cdd.models.functional import bind
from cdd.models.pretrained import names
from cdd.models.text import CLIPTextModel, TextConfig
from cdd.models.unet import UNet2DConditionModel, UNetConfig
from cdd.models.vae import AutoencoderKL, VAEConfig
from cdd.types import Params

# component -> (its weight file, our config, our module, the library and class in the index)
COMPONENTS = dict(
  unet=(
    'diffusion_pytorch_model.safetensors',
    UNetConfig,
    UNet2DConditionModel,
    ('diffusers', 'UNet2DConditionModel'),
  ),
  vae=(
    'diffusion_pytorch_model.safetensors',
    VAEConfig,
    AutoencoderKL,
    ('diffusers', 'AutoencoderKL'),
  ),
  text_encoder=('model.safetensors', TextConfig, CLIPTextModel, ('transformers', 'CLIPTextModel')),
)
# Fields that diffusers and transformers need and our networks do not.
WRITTEN = dict(
  unet=lambda config: dict(mid_block_type='UNetMidBlock2DCrossAttn', act_fn='silu'),
  vae=lambda config: dict(
    act_fn='silu',
    down_block_types=('DownEncoderBlock2D',) * len(config.block_out_channels),
    up_block_types=('UpDecoderBlock2D',) * len(config.block_out_channels),
  ),
  text_encoder=lambda config: dict(
    model_type='clip_text_model',
    architectures=('CLIPTextModel',),
    bos_token_id=config.vocab_size - 2,
    eos_token_id=config.vocab_size - 1,
    pad_token_id=config.vocab_size - 1,
  ),
)


class Pretrained(NamedTuple):
  """A pipeline in memory.

  Attributes:
    configs: component -> its config (UNetConfig, VAEConfig, TextConfig).
    params: the flat tree of all components, 'unet.…', 'vae.…', 'text_encoder.…'; NumPy, float32.
    scheduler: scheduler_config.json as a dict.
    tokenizer: the folder of the tokenizer, or None.
  """

  configs: dict[str, Any]
  params: Params
  scheduler: dict[str, Any]
  tokenizer: Path | None


def make(component: str, config, *, dtype=np.float32) -> nnx.Module:
  """A freshly initialised network."""
  return COMPONENTS[component][2](config, dtype=dtype, rngs=nnx.Rngs(0))


def parse(component: str, fields: Mapping[str, Any]):
  """Our config from the fields of a config.json; fields that we do not know are left out."""
  kind = COMPONENTS[component][1]
  frozen = lambda value: tuple(value) if isinstance(value, list) else value
  return kind(**{name: frozen(fields[name]) for name in kind._fields if name in fields})


def load(folder: Path) -> Pretrained:
  """Reads the components that a folder holds.

  Raises:
    UserError: there is no such folder, a file is missing or cut short, or tensors do not fit.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise UserError(
      f'There is no pretrained model at {str(folder)!r}. It should be a diffusers folder (unet/, '
      'vae/, text_encoder/, scheduler/, tokenizer/).'
    )
  configs, params = {}, {}
  for component in COMPONENTS:
    if (folder / component).is_dir():
      config, tree = _load_component(folder / component, component)
      configs[component] = config
      params.update({f'{component}.{path}': leaf for path, leaf in tree.items()})
  scheduler = folder / 'scheduler' / 'scheduler_config.json'
  tokenizer = folder / 'tokenizer'
  return Pretrained(
    configs,
    params,
    _json(scheduler) if scheduler.exists() else {},
    tokenizer if tokenizer.is_dir() else None,
  )


def _load_component(folder: Path, component: str):
  config = parse(component, _json(folder / 'config.json'))
  path = folder / COMPONENTS[component][0]
  if not path.exists():
    raise UserError(f'{folder} has no {path.name}; pickled weights are not read.')
  try:
    tensors = load_file(path)
  except (SafetensorError, OSError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error
  tensors = {key: leaf for key, leaf in tensors.items() if not key.endswith('position_ids')}
  if (
    component == 'text_encoder'
  ):  # transformers 5 writes without the prefix that the hub's files have.
    tensors = {'text_model.' + key.removeprefix('text_model.'): tensors[key] for key in tensors}
  shapes = jax.eval_shape(lambda: bind(make(component, config))[1])
  return config, names.convert(tensors, shapes, str(path))


def _json(path: Path) -> dict:
  if not path.exists():
    raise UserError(f'{path.parent} has no {path.name}.')
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise UserError(f'{path} is not JSON: {error}') from error


def save(pretrained: Pretrained, folder: Path, *, dtype=np.float16) -> None:
  """Writes a folder that diffusers' `from_pretrained` reads; whole, or not at all."""
  folder = Path(folder)
  new = folder.with_name(folder.name + '.tmp')
  shutil.rmtree(new, ignore_errors=True)
  index = {'_class_name': 'StableDiffusionPipeline', '_diffusers_version': '0.36.0'}
  for component, config in pretrained.configs.items():
    filename, _, _, where = COMPONENTS[component]
    index[component] = list(where)
    (new / component).mkdir(parents=True)
    fields = dict(config._asdict(), _class_name=where[1], **WRITTEN[component](config))
    fields = {name: value for name, value in fields.items() if value is not None}
    (new / component / 'config.json').write_text(json.dumps(fields, indent=2) + '\n')
    save_file(torch_tensors(pretrained.params, component, dtype), new / component / filename)
  if pretrained.scheduler:
    index['scheduler'] = ['diffusers', pretrained.scheduler['_class_name']]
    (new / 'scheduler').mkdir()
    text = json.dumps(pretrained.scheduler, indent=2) + '\n'
    (new / 'scheduler' / 'scheduler_config.json').write_text(text)
  if pretrained.tokenizer:
    index['tokenizer'] = ['transformers', 'CLIPTokenizer']
    shutil.copytree(pretrained.tokenizer, new / 'tokenizer')
  (new / 'model_index.json').write_text(json.dumps(index, indent=2) + '\n')
  shutil.rmtree(folder, ignore_errors=True)
  os.replace(new, folder)


def torch_tensors(params: Params, prefix: str, dtype) -> dict[str, np.ndarray]:
  """The tensors below a prefix, with torch's keys and layouts."""
  start = prefix + '.'
  return {
    names.torch_key(path[len(start) :]): np.ascontiguousarray(
      names.to_torch(path, np.asarray(leaf)), dtype
    )
    for path, leaf in params.items()
    if path.startswith(start)
  }
