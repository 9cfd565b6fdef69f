"""Owns which prior a run starts from: a folder, what the config makes anew, and its tokenizer."""

from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np

from cdd import assets
from cdd.core import trees
from cdd.core.errors import UserError
from cdd.data import tokens
from cdd.models import functional
from cdd.pretrained import diffusers, hub

PACKAGED = assets.PRIOR


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
      files: 'fp16') and `new` (component -> its fields).
    workdir: where a new tokenizer is written.
    captions: what a new tokenizer learns from.
    place: (path, array) -> what to keep of a parameter that is read.

  Raises:
    UserError: there is no such folder, or it is broken.
  """
  prior = diffusers.Pretrained({}, {}, {}, {})
  if spec.path:
    variant = spec.get('variant')
    prior = diffusers.load(folder_of(spec.path, variant), place=place, variant=variant)
  new = spec.get('new', {})
  if 'tokenizer' in new:
    folder = workdir / 'tokenizer'
    if not (folder / 'special_tokens_map.json').exists():
      tokens.train(captions, folder, **new['tokenizer'])
    prior = prior._replace(tokenizers=dict(prior.tokenizers, tokenizer=folder))
  for component in [name for name in diffusers.COMPONENTS if name in new]:
    fields = dict(new[component])
    if component == 'text_encoder':
      tokenizer = tokens.Tokenizer(prior.tokenizers['tokenizer'])
      fields.update(vocab_size=tokenizer.size, max_position_embeddings=tokenizer.length)
      fields.update(eos_token_id=int(tokenizer('')[1]))
    prior = _with(prior, component, diffusers.parse(component, fields))
  return prior._replace(scheduler=dict(new.get('scheduler', prior.scheduler)))


def folder_of(path: str, variant: str | None = None) -> Path:
  """The diffusers folder of `config.prior.path`, downloaded if it is a hub's.

  Raises:
    UserError: there is none.
  """
  if path == 'packaged':
    return PACKAGED
  try:
    folder = hub.folder(path, variant=variant)
  except UserError as error:
    raise UserError(f'{error} It is config.prior.path.') from error
  if not folder.is_dir():
    raise UserError(
      f'There is no pretrained model at {path!r} (config.prior.path). It should be a diffusers '
      "folder, a hub's owner/name, or 'packaged'."
    )
  return folder


def _with(prior: diffusers.Pretrained, component: str, config) -> diffusers.Pretrained:
  """The prior with a freshly initialised component; nothing is left of one that it had."""
  make = lambda: functional.bind(diffusers.make(component, config))[1]
  without = lambda tree: {name: tree[name] for name in tree if name.split('.')[0] != component}
  params = trees.prefixed(jax.tree.map(np.asarray, jax.jit(make)()), component)
  return prior._replace(
    configs={**prior.configs, component: config},
    params={**without(prior.params), **params},
    fields=without(prior.fields),
  )
