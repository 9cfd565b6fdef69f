"""A folder loaded, trained two steps, converted: the reference's pipeline makes our image."""

import diffusers as reference
import numpy as np
import pytest
import tiny
import torch

from cdd import sampling
from cdd.models.assemble import assemble
from cdd.pretrained import diffusers
from cdd.pretrained.convert import convert
from cdd.runs import loop

PROMPTS = ['a red ball on a table', 'two blue boxes']
ADAPTERS = dict(controlnet=dict(hint_widths=(4, 8)), concat=dict())


def trained(name, prior, workdir):
  """Two large steps of every parameter of the U-Net and of the adapter."""
  config = tiny.load('depth.py:tiny,method=finetune', prior)
  config.model.adapter = dict(name=name, **ADAPTERS[name])
  config.optimizer.update(dict(name='adamw', learning_rate=0.03, warmup=0, decay='constant'))
  config.evaluation = None
  loop.run(config, workdir)


def strict(kind, folder):
  """The reference's model, with every tensor of the file in it and no other."""
  model, info = kind.from_pretrained(folder, output_loading_info=True)
  assert not info['missing_keys'] and not info['unexpected_keys'] and not info['mismatched_keys']
  return model


def reference_pipeline(name, folder):
  """The converted folder with its adapter, and the sampler that the folder names."""
  parts = dict(unet=strict(reference.UNet2DConditionModel, folder / 'unet'), safety_checker=None)
  kind = reference.StableDiffusionInstructPix2PixPipeline
  if name == 'controlnet':
    kind = reference.StableDiffusionControlNetPipeline
    parts[name] = strict(reference.ControlNetModel, folder / name)
  pipeline = kind.from_pretrained(folder, torch_dtype=torch.float32, **parts)
  assert type(pipeline.scheduler) is reference.DDIMScheduler
  pipeline.set_progress_bar_config(disable=True)
  return pipeline


@pytest.mark.parametrize('name', ADAPTERS)
def test_a_trained_model_makes_the_same_image_in_the_reference(name, prior, tmp_path):
  trained(name, prior, tmp_path / 'run')
  convert(str(tmp_path / 'run'), tmp_path / 'out')
  rng = np.random.default_rng(0)
  latents = rng.normal(size=(2, tiny.SIZE // 2, tiny.SIZE // 2, 4)).astype(np.float32)
  images = rng.uniform(size=(2, tiny.SIZE, tiny.SIZE, 3)).astype(np.float32)
  more = dict(image_guidance_scale=1.0) if name == 'concat' else {}
  theirs = reference_pipeline(name, tmp_path / 'out')(
    PROMPTS,
    image=torch.tensor(images.transpose(0, 3, 1, 2)),
    num_inference_steps=4,
    latents=torch.tensor(latents.transpose(0, 3, 1, 2)),
    output_type='np',
    guidance_scale=3.0,
    **more,
  ).images
  how = dict(latents=latents, steps=4, sampler='ddim', guidance=3.0)
  more = dict(image_guidance=1.0) if name == 'concat' else {}
  ours = sampling.load(tmp_path / 'run')(PROMPTS, images, **how, **more)
  error = np.abs(ours - theirs).max()
  print(f'{name}: greatest difference {error:.1e}, deviation of the image {ours.std():.2f}')
  assert error < 1e-3 and ours.std() > 0.05
  before = sampling.load(prior)(PROMPTS, **how)
  assert np.abs(before - ours).max() > 0.1  # The two steps tell.


def test_the_packaged_prior_makes_the_same_image_in_the_reference(tmp_path):
  convert('packaged', tmp_path / 'out')
  pipeline = reference.StableDiffusionPipeline.from_pretrained(
    tmp_path / 'out', torch_dtype=torch.float32, safety_checker=None
  )
  pipeline.set_progress_bar_config(disable=True)
  model = sampling.load('packaged')
  side = model.size[0] // model.networks.factor
  latents = np.random.default_rng(0).normal(size=(2, side, side, model.networks.channels))
  theirs = pipeline(
    PROMPTS,
    num_inference_steps=4,
    latents=torch.tensor(latents.transpose(0, 3, 1, 2), dtype=torch.float32),
    output_type='np',
    guidance_scale=7.5,
  ).images
  ours = model(PROMPTS, latents=latents.astype(np.float32), steps=4, sampler='ddim', guidance=7.5)
  error = np.abs(ours - theirs).max()
  print(f'packaged: greatest difference {error:.1e}, deviation of the image {ours.std():.2f}')
  assert error < 1e-3 and ours.std() > 0.05


def test_a_shift_of_the_latents_is_written_into_the_biases(prior, tmp_path):
  read = diffusers.load(prior)
  shifted = read._replace(
    configs={**read.configs, 'vae': read.configs['vae']._replace(shift_factor=0.7)}
  )
  diffusers.save(shifted, tmp_path / 'out', dtype=np.float32)
  ours, _ = assemble(shifted.configs, shifted.params, shifted.scheduler, None)
  images = np.random.default_rng(0).uniform(size=(2, tiny.SIZE, tiny.SIZE, 3)).astype(np.float32)
  latents = ours.encode(shifted.params, images)
  theirs = strict(reference.AutoencoderKL, tmp_path / 'out/vae')
  assert theirs.config.shift_factor is None
  with torch.no_grad():
    mode = theirs.encode(torch.tensor(2 * images.transpose(0, 3, 1, 2) - 1)).latent_dist.mode()
    decoded = theirs.decode(mode).sample.numpy().transpose(0, 2, 3, 1)
  scaled = mode.numpy().transpose(0, 2, 3, 1) * theirs.config.scaling_factor
  np.testing.assert_allclose(latents, scaled, atol=1e-5)
  np.testing.assert_allclose(ours.decode(shifted.params, latents), decoded / 2 + 0.5, atol=1e-5)
