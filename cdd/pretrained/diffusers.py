"""Owns the diffusers folder layout: reading a text-to-image pipeline, and writing one. No torch."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cdd.core import files, trees
from cdd.core.errors import UserError
from cdd.core.types import Params
from cdd.models import components, functional
from cdd.models.time import LCM, NOTHING, Beside
from cdd.models.vae import VAEConfig
from cdd.pretrained import names, scheduler, weights
from cdd.pretrained.families import (
  COMPONENTS,
  PIPELINES,
  TOKENIZERS,
  kind_of,
  kinds,
  parse,
  written,
)


class Pretrained(NamedTuple):
  """A pipeline in memory.

  Attributes:
    configs: component -> its config (UNetConfig, VAEConfig, TextConfig).
    params: the flat tree of all components, 'unet.…', 'vae.…', 'text_encoder.…'.
    scheduler: scheduler_config.json as a dict.
    tokenizers: 'tokenizer', 'tokenizer_2' -> its folder.
    fields: component -> its config.json as it was read.
    index: model_index.json as it was read.
    extras: components of the folder that are not read, as its safety_checker.
    beside: what the U-Net was trained to be given beside the time; in a folder the fields STEPS and
      GUIDANCE of unet/config.json, which diffusers ignores.
  """

  configs: Mapping[str, Any]
  params: Params
  scheduler: Mapping[str, Any]
  tokenizers: Mapping[str, Path]
  fields: Mapping[str, Mapping[str, Any]] = {}
  index: Mapping[str, Any] = {}
  extras: tuple[str, ...] = ()
  beside: Beside = NOTHING


STEPS, GUIDANCE = '_step_counts', '_guidance_scales'


def load(
  folder: Path,
  *,
  place: Callable[[str, np.ndarray], Any] = lambda path, array: array,
  dtype=np.float32,
  variant: str | None = None,
) -> Pretrained:
  """Reads the components that a folder holds, tensor by tensor.

  Args:
    place: (path, array) -> where a parameter is put; `sharding.placer(mesh)` puts it on devices.
    dtype: of the parameters; None is that of the files.
    variant: 'fp16' reads unet/diffusion_pytorch_model.fp16.safetensors, and so on; a component that
      has no such file is read from its plain one, as diffusers does.

  Raises:
    UserError: there is no such folder, no component has the variant, it is of another family, a
      file is missing, broken or a pickle, or tensors do not fit.
  """
  folder = Path(folder)
  index = _index(folder)
  configs, params, fields = {}, {}, {}
  present = [name for name in COMPONENTS if (folder / name).is_dir()]
  variants = variants_of(folder, present, variant)
  for component in present:
    settings = dict(place=place, dtype=dtype, variant=variants[component])
    read = load_component(folder / component, component, **settings)
    fields[component], configs[component] = read.fields, read.config
    params.update(read.params)
  known = (*COMPONENTS, *TOKENIZERS, 'scheduler')
  listed = {name for name, entry in index.items() if isinstance(entry, list) and any(entry)}
  return Pretrained(
    configs,
    params,
    scheduler.read(folder / 'scheduler'),
    {name: folder / name for name in TOKENIZERS if (folder / name).is_dir()},
    fields,
    index,
    tuple(sorted(listed - {*known})),
    beside_of(fields.get('unet', {})),
  )


def beside_of(unet: Mapping[str, Any]) -> Beside:
  """What a U-Net of a config.json is given beside the time: without STEPS it is an LCM's."""
  if not unet.get('time_cond_proj_dim'):
    return NOTHING
  if not unet.get(STEPS):
    return LCM
  return Beside(tuple(unet[STEPS]), tuple(unet.get(GUIDANCE, ())))


class Part(NamedTuple):
  """A component in memory: its config, its config.json, and its parameters, 'vae.…'."""

  config: Any
  fields: Mapping[str, Any]
  params: Params


def load_component(
  folder: Path,
  component: str,
  *,
  place: Callable[[str, np.ndarray], Any] = lambda path, array: array,
  dtype=np.float32,
  variant: str | None = None,
) -> Part:
  """Reads the folder of one component; the arguments and errors are those of `load`."""
  fields = weights.read_json(folder / 'config.json')
  config = _config(folder, component, fields)

  def within(path, array):
    return place(f'{component}.{path}', array)

  tree = _params(folder, component, config, place=within, dtype=dtype, variant=variant)
  return Part(config, fields, trees.prefixed(tree, component))


def variants_of(folder: Path, present: list[str], variant: str | None) -> dict[str, str | None]:
  """The variant of each component: None where only others have it. If none has it, it stays."""
  have = {name: weights.has(folder / name, COMPONENTS[name].stem, variant) for name in present}
  if variant is None or not any(have.values()):
    return dict.fromkeys(present, variant)
  if lacking := [name for name in present if not have[name]]:
    logging.warning(
      '%s has no variant %r of %s; their plain files are read.', folder, variant, lacking
    )
  return {name: variant if have[name] else None for name in present}


def _index(folder: Path) -> dict[str, Any]:
  """model_index.json, once the folder is known to be of a family that is read."""
  if folder.is_file():
    raise UserError(f'{folder} is a file, not a diffusers folder. {weights.how_to_convert(folder)}')
  if not folder.is_dir():
    raise UserError(
      f'There is no pretrained model at {str(folder)!r}. It should be a diffusers folder (unet/, '
      'vae/, text_encoder/, scheduler/, tokenizer/).'
    )
  path = folder / 'model_index.json'
  index = weights.read_json(path) if path.exists() else {}
  if not any((folder / component).is_dir() for component in COMPONENTS):
    single = folder / 'config.json'
    name = weights.read_json(single).get('_class_name') if single.exists() else None
    what = f'a single {name}' if name else f'{sorted(p.name for p in folder.iterdir())[:8]}'
    raise UserError(
      f'{folder} is no text-to-image pipeline: it holds none of {list(COMPONENTS)}, but {what}.'
    )
  for component in COMPONENTS:
    listed = index.get(component)
    _check_class(path, component, [n for n in listed[1:] if n] if isinstance(listed, list) else [])
  return index


def _check_class(path: Path, component: str, found: list[str]) -> None:
  expected = kinds(component)
  if found and not expected.keys() & {*found}:
    raise UserError(f'{path}: {component} is a {found[0]}; only {" or ".join(expected)} is read.')


def _config(folder: Path, component: str, fields: Mapping[str, Any]):
  """The config of a component of the class that we have."""
  path = folder / 'config.json'
  found = [fields['_class_name']] if '_class_name' in fields else fields.get('architectures') or []
  _check_class(path, component, found)
  try:
    return parse(component, fields)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def _params(folder: Path, component: str, config, *, place, dtype, variant) -> Params:
  """The parameters of a component."""
  entry = kind_of(component, config)
  shapes = functional.abstract(lambda: components.make(component, config))[1]
  stored = weights.read(folder, entry.stem, variant)
  stored = {key: leaf for key, leaf in stored.items() if not key.endswith('position_ids')}
  stored = names.rename(stored, entry.older, str(folder))
  file = next((leaf.path for leaf in stored.values()), folder)
  return names.convert(stored, shapes, str(file), dtype=dtype, place=place)


def save(
  pretrained: Pretrained, folder: Path, *, dtype=np.float16, max_shard_size: int = weights.SHARD
) -> None:
  """Writes a folder that diffusers' `from_pretrained` reads; complete, or not at all."""
  pretrained = unshifted(pretrained)
  with files.atomic(folder) as new:
    new.mkdir()
    for component, config in pretrained.configs.items():
      (new / component).mkdir()
      tensors = names.to_tensors(trees.select(pretrained.params, component))
      kind = dtype or common_dtype(tensors)
      fields = written(component, config, pretrained.fields.get(component, {}), kind)
      if component == 'unet' and pretrained.beside.counts:
        fields[STEPS] = list(pretrained.beside.counts)
        if pretrained.beside.guidance:
          fields[GUIDANCE] = list(pretrained.beside.guidance)
      files.write_json(new / component / 'config.json', fields)
      weights.write(
        new / component,
        COMPONENTS[component].stem,
        tensors,
        dtype=dtype,
        max_shard_size=max_shard_size,
      )
    if pretrained.scheduler:
      (new / 'scheduler').mkdir()
      files.write_json(new / 'scheduler' / scheduler.NAME, pretrained.scheduler)
    for name, source in pretrained.tokenizers.items():
      shutil.copytree(source, new / name)
    files.write_json(new / 'model_index.json', new_index(pretrained))


def common_dtype(tensors: Params) -> np.dtype | None:
  """The dtype of all tensors; None if they have several."""
  kinds = {tensor.dtype for tensor in tensors.values()}
  return kinds.pop() if len(kinds) == 1 else None


def of_params(pretrained: Pretrained, params: Params) -> Pretrained:
  """The same with trained parameters, and the config of a U-Net that reads more than it did.

  An adapter may have given it further input channels, and a method its step.
  """
  configs = dict(pretrained.configs)
  if 'unet' in configs:
    step = params.get('unet.time_embedding.cond_proj.kernel')
    configs['unet'] = configs['unet']._replace(
      in_channels=params['unet.conv_in.kernel'].shape[2],
      time_cond_proj_dim=None if step is None else step.shape[0],
    )
  return pretrained._replace(configs=configs, params=params)


def unshifted(pretrained: Pretrained) -> Pretrained:
  """The same with the autoencoder's `shift_factor` in the biases of its two quant convolutions.

  PyTorch's Stable Diffusion pipelines do not read the field. The encoder's mean becomes
  mean - shift; the decoder's W z + b becomes W (z - shift) + b + W shift.
  """
  vae = pretrained.configs.get('vae')
  if not (isinstance(vae, VAEConfig) and vae.use_quant_conv and vae.use_post_quant_conv):
    return pretrained
  if not vae.shift_factor:
    return pretrained
  shift = vae.shift_factor
  configs, params = dict(pretrained.configs), dict(pretrained.params)
  channels = configs['vae'].latent_channels
  weight = np.asarray(params['vae.post_quant_conv.kernel'], np.float32)
  moved = {
    'vae.quant_conv.bias': np.float32([-shift] * channels + [0] * channels),
    'vae.post_quant_conv.bias': shift * weight.sum((0, 1, 2)),
  }
  for path, change in moved.items():
    params[path] = (params[path] + change).astype(params[path].dtype)
  configs['vae'] = configs['vae']._replace(shift_factor=None)
  return pretrained._replace(configs=configs, params=params)


def new_index(pretrained: Pretrained) -> dict[str, Any]:
  """model_index.json: the pipeline's class, its flags as they were read, and its components."""
  configs = pretrained.configs
  family = 'XL' if 'text_encoder_2' in configs else ''
  beside = configs['unet'].in_channels - configs['unet'].out_channels if 'unet' in configs else 0
  flags = {name: value for name, value in pretrained.index.items() if not isinstance(value, list)}
  index = {
    '_diffusers_version': '0.36.0',
    **flags,
    '_class_name': f'StableDiffusion{family}{PIPELINES.get(beside, "")}Pipeline',
  }
  index |= {name: [None, None] for name in pretrained.extras}
  written_as = {name: kind_of(name, config) for name, config in configs.items()}
  index |= {name: [kind.library, kind.name] for name, kind in written_as.items()}
  tokenizer = ['transformers', 'CLIPTokenizer']
  index |= {name: pretrained.index.get(name, tokenizer) for name in pretrained.tokenizers}
  if pretrained.scheduler:
    index['scheduler'] = ['diffusers', pretrained.scheduler['_class_name']]
  return index
