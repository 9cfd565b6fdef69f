"""Owns which prior a run starts from: a folder, what the config makes anew, and its tokenizer."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.types import Params
from cdd.data import tokens
from cdd.models import components, functional
from cdd.models.assemble import assemble
from cdd.models.networks import Networks
from cdd.models.time import NOTHING, Beside
from cdd.pretrained import adapter_folders, diffusers, families, locate


def load(
  spec,
  workdir: Path,
  captions: Iterable[str],
  *,
  place: Callable = lambda path, array: array,
) -> diffusers.Pretrained:
  """The prior that `config.prior` describes.

  Args:
    spec: `path` ('packaged', a diffusers folder, a hub's 'owner/name', or None), `variant` (of its
      files: 'fp16'), `vae` (an autoencoder in place of its own), `new` (component -> its fields)
      and `replace` (component -> fields of its config that change while its weights stay).
    workdir: where a new tokenizer is written.
    captions: what a new tokenizer learns from.
    place: (path, array) -> where a parameter that is read is put.

  Raises:
    UserError: there is no such folder, or it is broken.
  """
  prior = diffusers.Pretrained({}, {}, {}, {})
  if spec.path:
    variant = spec.get('variant')
    prior = diffusers.load(folder_of(spec.path, variant), place=place, variant=variant)
  if spec.get('vae'):
    if 'vae' in spec.get('new', {}):
      raise UserError(f'Both config.prior.vae, {spec.vae}, and a new vae are given; choose one.')
    prior = with_vae(prior, spec.vae, place=place)
  for component, fields in spec.get('replace', {}).items():
    config = prior.configs[component]._replace(**fields)
    prior = prior._replace(configs={**prior.configs, component: config})
  new = spec.get('new', {})
  if 'tokenizer' in new:
    folder = workdir / 'tokenizer'
    if not (folder / 'special_tokens_map.json').exists():
      tokens.train(captions, folder, **new['tokenizer'])
    prior = prior._replace(tokenizers=dict(prior.tokenizers, tokenizer=folder))
  for component in [name for name in families.COMPONENTS if name in new]:
    fields = dict(new[component])
    if component == 'text_encoder':
      tokenizer = tokens.Tokenizer(prior.tokenizers['tokenizer'])
      fields.update(vocab_size=tokenizer.size, max_position_embeddings=tokenizer.length)
      fields.update(eos_token_id=int(tokenizer('')[1]))
    prior = _with(prior, component, families.parse(component, fields))
  return prior._replace(scheduler=dict(new.get('scheduler', prior.scheduler)))


def folder_of(path: str, variant: str | None = None) -> Path:
  """The diffusers folder of `config.prior.path`, downloaded if it is a hub's.

  Raises:
    UserError: there is none.
  """
  try:
    return locate.pipeline(path, variant=variant)
  except UserError as error:
    raise UserError(f'{error} It is config.prior.path.') from error


def reread(spec, paths: Collection[str]) -> Params:
  """Some parameters as the folder that a prior was read from has them."""
  variant = spec.get('variant')

  def wanted(path, array):
    return array if path in paths else None

  read = diffusers.load(folder_of(spec.path, variant), place=wanted, variant=variant).params
  return {path: read[path] for path in paths}


def vae_folder(source: str) -> Path:
  """The folder of an autoencoder: itself, or that of a pipeline which has one; or a hub's.

  Raises:
    UserError: there is none.
  """
  found = locate.locate(source, what='autoencoder')
  folder = found.path / 'vae' if (found.path / 'vae').is_dir() else found.path
  if found.config is not None or not (folder / 'config.json').exists():
    raise UserError(
      f'There is no autoencoder at {source!r}; it should be a diffusers folder of one or of a '
      "pipeline, or a hub's owner/name."
    )
  return folder


def with_vae(prior: diffusers.Pretrained, source: str, *, place: Callable) -> diffusers.Pretrained:
  """The prior with another autoencoder, its scale and its shift.

  Raises:
    UserError: there is none, or its latents have other channels than those that the U-Net predicts.
  """
  folder = vae_folder(source)
  part = diffusers.load_component(folder, 'vae', place=place)
  unet = prior.configs.get('unet')
  if unet and unet.out_channels != part.config.channels:
    raise UserError(
      f'The autoencoder at {source} has latents of {part.config.channels} channels; the U-Net '
      f'predicts {unet.out_channels}.'
    )
  params = {path: leaf for path, leaf in prior.params.items() if not path.startswith('vae.')}
  return prior._replace(
    configs={**prior.configs, 'vae': part.config},
    params={**params, **part.params},
    fields={**prior.fields, 'vae': part.fields},
  )


def reader(prior: diffusers.Pretrained) -> tokens.Reader:
  """What reads texts for the text encoders of a prior."""
  encoders = {name: name.replace('tokenizer', 'text_encoder') for name in prior.tokenizers}
  positions = {
    name: prior.configs[encoder].max_position_embeddings
    for name, encoder in encoders.items()
    if encoder in prior.configs
  }
  return tokens.Reader(prior.tokenizers, positions)


def networks(
  spec, prior: diffusers.Pretrained, *, beside: Beside = NOTHING
) -> tuple[Networks, Params]:
  """The networks of a prior with the adapter that a config names, and the parameters it adds.

  Args:
    spec: `config.model`: adapter, dtype, remat, saved and step_channels.
    beside: what they are trained to be given beside the time; NOTHING: what the prior was.

  Raises:
    UserError: step_channels of a network that is trained for no numbers of steps, or a prior that
      was trained to be given something else.
  """
  beside = prior.beside if beside == NOTHING else beside
  check_channels(spec.get('step_channels'), beside)
  if prior.beside.words not in ('', beside.words):
    raise UserError(
      f"The prior's U-Net was trained to be given {prior.beside.words} with the time; the method "
      f'would give it {beside.words} in the same channels.'
    )
  adapter = loaded = None
  if 'unet' in prior.configs:
    adapter, loaded = adapter_folders.start(spec.adapter, prior.configs['unet'])
  settings = dict(dtype=jnp.dtype(spec.dtype), remat=spec.get('remat', False))
  settings |= dict(saved=spec.get('saved', ()))
  settings |= dict(step_channels=spec.get('step_channels'))
  made, added = assemble(prior.configs, prior.params, prior.scheduler, adapter, loaded, **settings)
  zero = made.text_encoder_2 is not None and prior.index.get('force_zeros_for_empty_prompt', True)
  return made._replace(beside=beside, zero_empty=zero), added


def check_channels(channels: int | None, beside: Beside) -> None:
  """Refuses channels of what is given beside the time that would hold nothing, or no sinusoids."""
  if channels and not beside.counts:
    raise UserError(
      f'model.step_channels is {channels}; it is for a method that names numbers of steps '
      "(method.counts), as 'step_aware' does."
    )
  multiple = 4 if beside.guidance else 2  # A sine and a cosine of the step, and of the scale.
  if channels and channels % multiple:
    raise UserError(f'model.step_channels is {channels}; it must be a multiple of {multiple}.')


def beside_of(method) -> Beside:
  """What `config.method` trains a U-Net to be given beside the time."""
  return Beside(tuple(method.get('counts', ())), tuple(method.get('guidance', ())))


def _with(prior: diffusers.Pretrained, component: str, config) -> diffusers.Pretrained:
  """The prior with a freshly initialised component; nothing is left of one that it had."""

  def make():
    return functional.bind(components.make(component, config))[1]

  def without(tree):
    return {name: tree[name] for name in tree if name.split('.')[0] != component}

  params = trees.prefixed(jax.tree.map(np.asarray, jax.jit(make)()), component)
  return prior._replace(
    configs={**prior.configs, component: config},
    params={**without(prior.params), **params},
    fields=without(prior.fields),
    beside=NOTHING if component == 'unet' else prior.beside,
  )
