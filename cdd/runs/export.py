"""Owns what a run leaves behind: a diffusers folder of a new prior, or the trained parameters."""

import json
from pathlib import Path

import jax
import numpy as np

from cdd.pretrained import diffusers, trained
from cdd.core.types import Params

WEIGHTS = 'trained.safetensors'


def export(experiment, config, params: Params, folder: Path) -> None:
  """Writes the averaged parameters θ⁻ of a run.

  A run that trained parts of a prior without an adapter writes a whole diffusers folder; any other
  writes its trainable parameters alone, float16 under torch's names.
  """
  params = {path: np.asarray(leaf) for path, leaf in jax.device_get(params).items()}
  if config.model.adapter.name == 'none':
    diffusers.save(new_prior(experiment, config, params), folder)
  else:
    trained.save(params, folder / WEIGHTS)
    (folder / 'config.json').write_text(
      json.dumps(json.loads(config.to_json_best_effort()), indent=2)
    )


def new_prior(experiment, config, params: Params) -> diffusers.Pretrained:
  """The prior with its trained parts; a new autoencoder gets the scale that makes latents unit."""
  prior = experiment.prior
  prior = prior._replace(params={**prior.params, **params})
  if config.method.name == 'autoencoder':
    # As the config stands the scale is that of the initial config; undo it to measure.
    networks = experiment.networks
    encode = jax.jit(lambda tree, images: networks.vae(_vae(tree), 'encode', 2 * images - 1)[0])
    means = [np.asarray(encode(params, b['image'])) for b in experiment.held_out(256, 32)]
    vae = prior.configs['vae']
    shift = float(np.mean(means))
    scaled = vae._replace(scaling_factor=float(1 / np.std(means)), shift_factor=shift)
    prior = prior._replace(configs={**prior.configs, 'vae': scaled})
  return prior


def _vae(tree: Params) -> Params:
  return {path[4:]: leaf for path, leaf in tree.items() if path.startswith('vae.')}
