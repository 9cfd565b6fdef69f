"""Owns what a run leaves behind: a diffusers folder of a new prior, or the trained parameters."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np

from cdd.core import files
from cdd.core.types import Params
from cdd.methods import METHODS
from cdd.pretrained import diffusers, priors, trained
from cdd.training import sharding


def export(experiment, config, params: Params, folder: Path) -> None:
  """Writes the evaluated parameters of a run; every process calls it, and process 0 writes.

  A run that trained parts of a prior without an adapter writes a diffusers folder, unless it
  distilled them for a sampler that the folder does not tell; any other writes its trainable
  parameters alone, float16 under torch's names.
  """
  params = sharding.readable(params, experiment.mesh)
  named = METHODS[config.method.name].sampler in (None, 'ddim') or config.method.get('counts')
  if config.model.adapter.name == 'none' and named:
    prior = new_prior(experiment, config, params)
    if jax.process_index() == 0:
      diffusers.save(prior, folder)
  elif jax.process_index() == 0:
    trained.save(params, folder / trained.NAME)
    files.write_json(folder / 'config.json', json.loads(config.to_json_best_effort()))


def new_prior(experiment, config, params: Params) -> diffusers.Pretrained:
  """The prior with its trained parts; a new autoencoder gets the scale that makes latents unit."""
  prior = experiment.prior
  # What the step holds in the dtype that it computes in is written as it was read.
  rounded = {path for path, leaf in prior.params.items() if leaf.dtype != np.float32} - {*params}
  exact = priors.reread(config.prior, rounded) if rounded else {}
  everything = sharding.readable({**prior.params, **params, **exact}, experiment.mesh)
  prior = diffusers.of_params(prior, everything)
  prior = prior._replace(beside=experiment.networks.beside)
  if any(path.startswith('vae.') for path in params):
    # As the config stands the scale is that of the initial config; undo it to measure.
    encode = jax.jit(lambda tree, images: experiment.networks.moments(tree, 2 * images - 1)[0])
    vae_params = {path: leaf for path, leaf in prior.params.items() if path.startswith('vae.')}
    measure = partial(encode, vae_params)
    means = [np.asarray(measure(b['image'])) for b in experiment.held_out(256, 32)]
    vae = prior.configs['vae']
    shift = float(np.mean(means))
    scaled = vae._replace(scaling_factor=float(1 / np.std(means)), shift_factor=shift)
    prior = prior._replace(configs={**prior.configs, 'vae': scaled})
  return prior
