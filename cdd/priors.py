"""Owns which prior a run starts from: a folder, what the config makes anew, and its tokenizer."""

from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np

from cdd import trees
from cdd.data import tokens
from cdd.errors import UserError
from cdd.models import functional
from cdd.models.pretrained import diffusers

PACKAGED = Path(__file__).parent / 'assets' / 'prior'


def load(spec, workdir: Path, captions: Iterable[str]) -> diffusers.Pretrained:
  """The prior that `config.prior` describes.

  Args:
    spec: `path` ('packaged', a diffusers folder, or None) and `new` (component -> its fields).
    workdir: where a new tokenizer is written.
    captions: what a new tokenizer learns from.

  Raises:
    UserError: there is no such folder, or it is broken.
  """
  prior = (
    diffusers.load(_folder(spec.path)) if spec.path else diffusers.Pretrained({}, {}, {}, None)
  )
  new = spec.get('new', {})
  if 'tokenizer' in new:
    folder = workdir / 'tokenizer'
    if not (folder / 'special_tokens_map.json').exists():
      tokens.train(captions, folder, **new['tokenizer'])
    prior = prior._replace(tokenizer=folder)
  for component in [name for name in diffusers.COMPONENTS if name in new]:
    fields = dict(new[component])
    if component == 'text_encoder':
      tokenizer = tokens.Tokenizer(prior.tokenizer)
      fields.update(vocab_size=tokenizer.size, max_position_embeddings=tokenizer.length)
    _add(prior, component, diffusers.parse(component, fields))
  return prior._replace(scheduler=dict(new.get('scheduler', prior.scheduler)))


def _folder(path: str) -> Path:
  if path == 'packaged':
    return PACKAGED
  if not Path(path).is_dir():
    raise UserError(
      f'There is no pretrained model at {path!r} (config.prior.path). It should be a diffusers '
      "folder, or 'packaged'; a hub's model has to be downloaded into a folder first."
    )
  return Path(path)


def _add(prior: diffusers.Pretrained, component: str, config) -> None:
  """Puts a freshly initialised component into the prior."""
  make = lambda: functional.bind(diffusers.make(component, config))[1]
  prior.configs[component] = config
  prior.params.update(trees.prefixed(jax.tree.map(np.asarray, jax.jit(make)()), component))
