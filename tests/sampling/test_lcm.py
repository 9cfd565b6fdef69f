"""Latent consistency models: their sampler, and the guidance scale that their U-Net is given."""

import json

import diffusers as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import torch_peers as peers
from diffusers.schedulers import scheduling_lcm
from torch_pipelines import PROMPTS, SIZE, STEPS, WIDTHS, folder_of, parts, run, same

from cdd import sampling
from cdd.core.errors import UserError
from cdd.diffusion import times
from cdd.diffusion.samplers import sampler as samplers
from cdd.models.time import LCM, Beside, guidance_sinusoid
from cdd.pretrained import diffusers, scheduler
from cdd.pretrained.convert import convert
from cdd.runs import loop
from cdd.sampling.spread import noise

SHAPE = (SIZE // 2, SIZE // 2, 4)


def lcm(folder, **fields):
  """The parts of a pipeline whose U-Net is given the guidance scale."""
  made = parts(folder, 'sd')
  torch.manual_seed(0)
  made['unet'] = peers.shaken(
    reference.UNet2DConditionModel.from_config(
      made['unet'].config, time_cond_proj_dim=6, cross_attention_dim=WIDTHS['sd']
    )
  )
  torch.nn.init.normal_(made['unet'].time_embedding.cond_proj.weight)
  made['scheduler'] = reference.LCMScheduler.from_config(made['scheduler'].config, **fields)
  return made


def repeat_our_noise(monkeypatch, seeds, steps):
  """Lets the reference draw what we draw for images of these seeds, step by step."""
  _, keys = noise(seeds, SHAPE)
  of_steps = jax.vmap(lambda key: jax.random.split(key, steps + 1), out_axes=1)(keys)
  z = jnp.zeros((len(seeds), *SHAPE))
  drawn = iter([np.array(samplers.noise(each, z)) for each in of_steps])
  monkeypatch.setattr(scheduling_lcm, 'randn_tensor', lambda *_, **__: peers.nchw(next(drawn)))


@pytest.mark.parametrize('guidance', [8.5, 1.0])
def test_the_image_of_an_lcm_is_the_pipelines(guidance, tmp_path, monkeypatch):
  made, latents = lcm(tmp_path), np.array(noise([0, 1], SHAPE)[0])
  folder = folder_of(made, tmp_path)
  pipeline = reference.StableDiffusionPipeline.from_pretrained(folder)
  repeat_our_noise(monkeypatch, [0, 1], STEPS)
  theirs = run(pipeline, latents, guidance_scale=guidance)
  model = sampling.load(folder)
  assert model.networks.beside == LCM and model.sampler == 'lcm'
  draw = lambda guidance: model(PROMPTS, guidance=guidance, seeds=0)  # In four steps by default.
  same(draw(guidance), theirs, draw(4.0))
  programs = model.draw._cache_size()
  draw(3.0)
  assert model.draw._cache_size() == programs


def test_a_tile_and_another_sampler_are_given_the_scale_too(tmp_path):
  made, latents = lcm(tmp_path), np.array(noise([0, 1], SHAPE)[0])
  folder = folder_of(made, tmp_path)
  pipeline = reference.StableDiffusionPipeline.from_pretrained(folder)
  pipeline.scheduler = reference.DDIMScheduler.from_config(
    pipeline.scheduler.config, timestep_spacing='trailing', set_alpha_to_one=True, clip_sample=False
  )
  theirs = run(pipeline, latents, guidance_scale=5.0)
  model = sampling.load(folder)
  how = dict(seeds=0, steps=STEPS, sampler='consistency')
  same(model(PROMPTS, guidance=5.0, **how), theirs, model(PROMPTS, guidance=1.0, **how))
  tiled = model(PROMPTS, guidance=5.0, tile=SIZE, **how)
  np.testing.assert_allclose(tiled, theirs, atol=1e-4)


def test_the_embedding_of_a_scale_is_that_of_diffusers():
  make = reference.LatentConsistencyModelPipeline.get_guidance_scale_embedding
  scales = [1.0, 2.5, 8.5]
  theirs = make(None, torch.tensor(scales) - 1, embedding_dim=8)
  np.testing.assert_allclose(guidance_sinusoid(jnp.array(scales), 8), theirs, atol=2e-4)


@pytest.mark.parametrize('steps', [1, 2, 3, 4, 7, 8, 50])
def test_the_times_are_those_of_the_reference(steps):
  theirs = reference.LCMScheduler()
  theirs.set_timesteps(steps)
  visited = times.Timesteps('lcm').times(1000, steps)
  assert visited == (*(theirs.timesteps.numpy() + 1), 0)


def test_more_steps_than_an_lcm_has_times_are_refused():
  with pytest.raises(UserError, match="51 steps with the spacing 'lcm'; choose 1..50"):
    times.Timesteps('lcm').times(1000, 51)


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    (dict(negative='blurry'), "negative is 'blurry'; this model"),
    (dict(rescale=0.7), 'rescale is 0.7; this model'),
  ],
)
def test_what_an_lcm_cannot_be_told_is_refused(given, said, tmp_path):
  model = sampling.load(folder_of(lcm(tmp_path), tmp_path))
  with pytest.raises(UserError, match=said):
    model('a', **given)


@pytest.mark.parametrize(
  'fields', [dict(original_inference_steps=20), dict(timestep_scaling=1.0), dict(clip_sample=True)]
)
def test_an_lcm_scheduler_of_other_settings_is_refused(fields):
  config = dict(reference.LCMScheduler(**fields).config)
  (name,) = fields
  with pytest.raises(UserError, match=f'{name} is .* of an LCMScheduler; only'):
    scheduler.check(config | dict(_class_name='LCMScheduler'))


@pytest.mark.parametrize('adapter', ['none', 'mu_mix'])
def test_a_step_aware_run_is_converted_to_a_folder_that_is_no_lcm(adapter, prior, tmp_path):
  config = tiny.load('depth.py:tiny,method=step_aware', prior)
  config.model.adapter = dict(name=adapter)
  config.model.step_channels, config.method.counts = 8, (1, 2, 4)
  config.evaluation = None
  config.optimizer.update(dict(name='adamw', learning_rate=0.03, warmup=0, decay='constant'))
  if adapter == 'none':
    config.data.task = dict(name='text_to_image')
    config.trainable = (('unet[.].*', 'train'), ('.*', 'freeze'))
  loop.run(config, tmp_path / 'run')
  folder = tmp_path / 'run/export'
  if adapter != 'none':
    folder = tmp_path / 'out'
    convert(str(tmp_path / 'run'), folder)
  fields = json.loads((folder / 'unet/config.json').read_text())
  assert (fields['time_cond_proj_dim'], fields['_step_counts']) == (8, [1, 2, 4])
  unet, info = reference.UNet2DConditionModel.from_pretrained(
    folder / 'unet', output_loading_info=True
  )
  assert not any(info[name] for name in ('missing_keys', 'unexpected_keys'))
  assert unet.time_embedding.cond_proj.weight.abs().max() > 0
  assert diffusers.load(folder).beside == Beside((1, 2, 4))
  given = dict(adapter=folder / adapter) if adapter != 'none' else {}
  model = sampling.load(folder, **given)
  assert model.networks.beside == Beside((1, 2, 4))
  image = np.random.default_rng(0).uniform(size=(32, 32, 3)).astype(np.float32)
  seen = (image,) if adapter != 'none' else ()
  draw = lambda model: model('a red ball', *seen, sampler='consistency', steps=4)
  if adapter != 'none':
    np.testing.assert_allclose(draw(model), draw(sampling.load(tmp_path / 'run')), atol=2e-3)
  with pytest.raises(UserError, match=r'not trained for 3 steps.*Choose one of \[1, 2, 4\]'):
    model('a red ball', *seen, sampler='consistency', steps=3)
