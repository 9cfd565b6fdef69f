"""A folder loaded, trained two steps, converted: the reference's pipeline makes our image."""

import diffusers as reference
import numpy as np
import pytest
import tiny
import torch

from cdd import sampling
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
