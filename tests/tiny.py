"""A random prior of a few thousand parameters, and runs of it that take seconds."""

import functools
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cdd.core import trees
from cdd.data import tokens
from cdd.data.scenes import Scenes
from cdd.models import components, functional
from cdd.pretrained import diffusers, families
from configs.tiny_prior import SCHEDULER, TEXT, UNET, VAE

ROOT = Path(__file__).parents[1]
SIZE = 32


def prior(folder: Path) -> Path:
  """Writes a whole diffusers folder with random weights."""
  captions = (Scenes(size=8)[index]['caption'] for index in range(20))
  tokens.train(captions, folder / 'tokenizer', vocab_size=600, length=12)
  text = dict(TEXT, max_position_embeddings=12)
  text['vocab_size'] = tokens.Tokenizer(folder / 'tokenizer').size
  configs, params = {}, {}
  for component, fields in dict(unet=UNET, vae=VAE, text_encoder=text).items():
    configs[component] = families.parse(component, fields)
    make = functools.partial(components.make, component, configs[component])
    params.update(trees.prefixed(functional.abstract(make)[1], component))
  rng = np.random.default_rng(0)
  params = {path: values(rng, path, leaf.shape) for path, leaf in params.items()}
  whole = diffusers.Pretrained(configs, params, SCHEDULER, dict(tokenizer=folder / 'tokenizer'))
  diffusers.save(whole, folder / 'prior')
  return folder / 'prior'


def values(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> np.ndarray:
  """Random weights of unit gain, as an initialiser makes them but without compiling one."""
  if path.endswith(('.scale', '.bias')):
    return np.full(shape, path.endswith('.scale'), np.float32)
  return (rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


def small(config: ConfigDict, path: Path) -> ConfigDict:
  """Reduces a config to the tiny prior, few and small pictures, and two steps."""
  config.update(dict(steps=2, log=dict(every=1, samples_every=0, checkpoint_every=2)))
  if 'eps_warmup' in config.get('method', {}):
    config.method.eps_warmup = 1  # One program for the sizes of a config.
  config.optimizer.name = 'adamw'  # Muon, whose program is large, is that of test_end_to_end.py.
  if config.prior.path:
    config.prior.path = str(path)
  config.data.batch_size = 2
  config.data.workers = 0
  if config.data.get('cache'):
    config.data.cache = 4
  for source in (config.data.source, config.data.held_out):
    for one in source.get('sources', (source,)):
      one['size'] = SIZE
  if config.evaluation:
    config.evaluation.update(dict(count=2, batch_size=2, steps=(1,), shipped=()))
  return config


def load(name: str, path: Path) -> ConfigDict:
  """The config 'depth.py:tiny' of configs/, reduced."""
  file, colon, option = name.partition(':')
  make = runpy.run_path(str(ROOT / 'configs' / file))['get_config']
  return small(make(option) if colon else make(), path)


def command(*arguments, **settings) -> subprocess.Popen:
  """Starts `python -m cdd.main` with these arguments, in the repository."""
  return subprocess.Popen(
    [sys.executable, '-m', 'cdd.main', *map(str, arguments)],
    cwd=ROOT,
    env=dict(os.environ, **settings),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process: subprocess.Popen, timeout: float = 900) -> tuple[int, str, str]:
  """(exit code, standard output, standard error); what takes longer is killed."""
  try:
    out, err = process.communicate(timeout=timeout)
  finally:
    process.kill()
  return process.returncode, out, err
