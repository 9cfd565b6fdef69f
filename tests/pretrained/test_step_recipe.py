"""A U-Net that is given its step: read by diffusers, and sampled as docs/step_aware.md says."""

import re

import diffusers as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
from ml_collections import ConfigDict

from cdd.core.errors import UserError
from cdd.core.types import Condition, Text
from cdd.diffusion import times
from cdd.diffusion.samplers import SAMPLERS, loop
from cdd.models.time import Beside
from cdd.pretrained import diffusers, priors
from cdd.sampling.draw import check_steps

SPEC = ConfigDict(dict(adapter=dict(name='none'), dtype='float32', step_channels=8))
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(2, 16, 16, 4)).astype(np.float32)
TEXT = RNG.normal(size=(2, 12, 16)).astype(np.float32)


@pytest.fixture(scope='module', params=[(), (1.5, 8.0)], ids=['plain', 'guided'])
def written(request, prior, tmp_path_factory):
  """(networks, parameters, the folder that they were written to)."""
  trained_for = Beside((1, 2, 4), request.param)
  loaded = priors.load(ConfigDict(dict(path=str(prior))), prior, ())
  networks, added = priors.networks(SPEC, loaded, beside=trained_for)
  assert list(added) == ['unet.time_embedding.cond_proj.kernel']
  added = {path: RNG.normal(size=leaf.shape).astype(np.float32) for path, leaf in added.items()}
  params = {**loaded.params, **added}
  unet = loaded.configs['unet']._replace(time_cond_proj_dim=8)
  folder = tmp_path_factory.mktemp('step') / 'folder'
  configs = {**loaded.configs, 'unet': unet}
  whole = loaded._replace(configs=configs, params=params, beside=trained_for)
  diffusers.save(whole, folder, dtype=np.float32)
  return networks, params, folder


def recipe():
  page = (tiny.ROOT / 'docs' / 'step_aware.md').read_text()
  (code,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
  names = {}
  exec(code, names)
  return names


@pytest.mark.parametrize('count', [1, 4])
def test_the_recipe_draws_what_we_draw(written, count):
  networks, params, folder = written
  unet = reference.UNet2DConditionModel.from_pretrained(folder, subfolder='unet')
  scheduler = reference.DDIMScheduler.from_pretrained(folder, subfolder='scheduler')
  with torch.no_grad():
    z = torch.tensor(Z.transpose(0, 3, 1, 2))
    how = (scheduler.alphas_cumprod, z, torch.tensor(TEXT), count)
    theirs = recipe()['sample'](unet, *how, scale=2.5)
  c = Condition({}, Text(jnp.asarray(TEXT)))
  denoise = networks.denoiser(params, c, scale=2.5)
  visited = times.Timesteps().times(1000, count)
  run = jax.jit(
    lambda z: loop.run(
      SAMPLERS['consistency'](),
      denoise,
      z,
      jax.random.key(0),
      schedule=networks.schedule,
      times=visited,
    )
  )
  theirs = theirs.numpy().transpose(0, 2, 3, 1)
  assert np.abs(np.asarray(run(jnp.asarray(Z))) - theirs).max() < 1e-3
  plain = denoise(jnp.asarray(Z), jnp.full((2, 1, 1, 1), 1000), None)
  given = denoise(jnp.asarray(Z), jnp.full((2, 1, 1, 1), 1000), jnp.full((2, 1, 1, 1), 0))
  assert np.abs(np.asarray(plain - given)).max() > 1e-2  # The step matters.
  other = networks.denoiser(params, c)(jnp.asarray(Z), jnp.full((2, 1, 1, 1), 1000), 0)
  assert (np.abs(np.asarray(other - given)).max() > 1e-3) == bool(networks.beside.guidance)


def test_a_folder_that_was_written_is_read_again(written):
  networks, params, folder = written
  loaded = priors.load(ConfigDict(dict(path=str(folder))), folder, ())
  assert loaded.configs['unet'].time_cond_proj_dim == 8 and loaded.beside == networks.beside
  path = 'unet.time_embedding.cond_proj.kernel'
  np.testing.assert_array_equal(loaded.params[path], params[path])


def test_steps_that_were_not_trained_are_refused_with_the_choices(written):
  networks, _, _ = written
  few, many = SAMPLERS['consistency'](), SAMPLERS['ddim']()
  check_steps(networks, few, times.Timesteps().times(1000, 4))
  check_steps(networks, many, times.Timesteps().times(1000, 50))
  with pytest.raises(UserError, match=r'8 steps.*Choose one of \[1, 2, 4\]'):
    check_steps(networks, few, times.Timesteps().times(1000, 8))
  with pytest.raises(UserError, match='spacing trailing'):
    check_steps(networks, few, times.Timesteps('linspace').times(1000, 4))
