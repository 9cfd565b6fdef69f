"""Whole pipelines of the reference library and ours on their folders, at the same noise."""

import diffusers as reference
import numpy as np
import pytest
import torch
from PIL import Image
from torch_pipelines import (
  NEGATIVE,
  PROMPTS,
  RNG,
  SCALE,
  SIZE,
  STEPS,
  beside,
  folder_of,
  noise,
  parts,
  pictures,
  run,
  same,
)

from cdd import sampling
from cdd.core.errors import UserError
from cdd.data import SOURCES, TASKS, pipeline
from cdd.data.tasks.inpaint import holed


@pytest.mark.parametrize(
  ('kind', 'negative'),
  [('sd', NEGATIVE), ('sd', None), ('sdxl', NEGATIVE), ('sdxl', None)],
)
def test_our_image_is_the_pipelines(kind, negative, tmp_path):
  made, latents = parts(tmp_path, kind), noise()
  folder = folder_of(made, tmp_path)
  kinds = dict(sd=reference.StableDiffusionPipeline, sdxl=reference.StableDiffusionXLPipeline)
  settings = dict(guidance_scale=SCALE, negative_prompt=negative)
  theirs = run(kinds[kind].from_pretrained(folder), latents, **settings)
  model = sampling.load(folder)
  draw = lambda **given: model(PROMPTS, latents=latents, steps=STEPS, **given)
  ours = draw(guidance=SCALE, negative=negative)
  same(ours, theirs, draw())


def test_a_size_that_the_unet_does_not_halve_evenly_is_made_as_in_the_pipeline(tmp_path):
  made, size = parts(tmp_path, 'sd'), (SIZE + 2, SIZE + 6)
  latents = RNG.normal(size=(2, *(side // 2 for side in size), 4)).astype(np.float32)
  folder = folder_of(made, tmp_path)
  pipeline = reference.StableDiffusionPipeline.from_pretrained(folder)
  pipeline.check_inputs = lambda *_, **__: None  # It takes an autoencoder of 8x for granted.
  theirs = run(pipeline, latents, guidance_scale=1.0, height=size[0], width=size[1])
  draw = lambda latents: sampling.load(folder)(PROMPTS, latents=latents, steps=STEPS, size=size)
  same(draw(latents), theirs, draw(latents[::-1]))


@pytest.mark.parametrize(
  ('kind', 'fields'),
  [
    (reference.DDIMScheduler, dict(timestep_spacing='trailing', set_alpha_to_one=True)),
    (reference.DDIMScheduler, dict(clip_sample=True, clip_sample_range=0.7, steps_offset=0)),
    (reference.PNDMScheduler, {}),
    (reference.EulerDiscreteScheduler, dict(timestep_spacing='trailing')),
  ],
)
def test_a_pipeline_is_sampled_as_its_scheduler_says(kind, fields, tmp_path):
  made, latents = parts(tmp_path, 'sdxl'), noise()
  made['scheduler'] = kind.from_config(made['scheduler'].config, **fields)
  folder = folder_of(made, tmp_path)
  pipeline = reference.StableDiffusionXLPipeline.from_pretrained(folder)
  config = dict(pipeline.scheduler.config)
  pipeline.scheduler = reference.DDIMScheduler.from_config(config)
  theirs = run(pipeline, latents, guidance_scale=1.0)
  model = sampling.load(folder)
  other = 'leading' if config['timestep_spacing'] == 'trailing' else 'trailing'
  draw = lambda **given: model(PROMPTS, latents=latents, steps=STEPS, **given)
  same(draw(), theirs, draw(spacing=other))


@pytest.mark.parametrize('name', ['controlnet', 'adapter'])
def test_an_adapter_beside_a_pipeline(name, tmp_path):
  made, latents, images = parts(tmp_path, 'sd'), noise(), pictures()
  theirs, draw = beside(name, made, tmp_path, latents)
  same(draw(images), theirs(images), draw(images[::-1]))


def test_instruct_pix2pix(tmp_path):
  made, latents, images = parts(tmp_path, 'sd', channels=8), noise(), pictures()
  pipeline = reference.StableDiffusionInstructPix2PixPipeline(**made)
  pipeline.save_pretrained(tmp_path / 'pipeline')
  settings = dict(guidance_scale=SCALE, image_guidance_scale=1.5, negative_prompt=NEGATIVE)
  theirs = run(pipeline, latents, image=torch.tensor(images.transpose(0, 3, 1, 2)), **settings)
  model = sampling.load(tmp_path / 'pipeline')
  draw = lambda scale: model(
    PROMPTS,
    images,
    latents=latents,
    steps=STEPS,
    guidance=SCALE,
    image_guidance=scale,
    negative=NEGATIVE,
  )
  same(draw(1.5), theirs, draw(None))


def test_an_inpainting_pipeline_paints_the_hole_of_a_mask(tmp_path):
  made, latents, images = parts(tmp_path, 'sd', channels=9), noise(), pictures()
  with torch.no_grad():  # The reference draws from the posterior, whose mode is taken here.
    made['vae'].quant_conv.weight[4:] = 0
    made['vae'].quant_conv.bias[4:] = -30
  pipeline = reference.StableDiffusionInpaintPipeline(**made)
  pipeline.save_pretrained(tmp_path / 'pipeline')
  masks = (np.random.default_rng(5).uniform(size=(2, SIZE, SIZE, 1)) > 0.5).astype(np.float32)
  theirs = run(
    pipeline,
    latents,
    image=torch.tensor(images.transpose(0, 3, 1, 2)),
    mask_image=torch.tensor(masks.transpose(0, 3, 1, 2)),
    height=SIZE,
    width=SIZE,
    strength=1.0,
    guidance_scale=SCALE,
    negative_prompt=NEGATIVE,
  )
  model = sampling.load(tmp_path / 'pipeline')

  def draw(masks):
    condition = np.concatenate([holed(images, masks), masks], axis=-1)
    how = dict(latents=latents, steps=STEPS, guidance=SCALE, negative=NEGATIVE)
    return model(PROMPTS, condition, **how)

  same(draw(masks), theirs, draw(1 - masks))
  with pytest.raises(UserError, match=r'alike, \[H, W, 4\], the last channel being a mask'):
    model(PROMPTS, images, latents=latents)


def test_a_caption_that_training_drops_is_what_guidance_leads_away_from(tmp_path):
  for kind in ('sdxl', 'sd'):
    made = parts(tmp_path / kind, kind)
    model = sampling.load(folder_of(made, tmp_path / kind))
    dropped, kept = (
      pipeline.as_arrays(dict(caption=text), model.tokenize, dict(present=text != 'b'))
      for text in 'ba'
    )
    raw = {name: np.stack([dropped[name], kept[name]]) for name in dropped}
    raw['image'] = np.zeros((2, SIZE, SIZE, 3), np.float32)
    text = model.networks.text(model.params, raw)
    away = model.networks.text(model.params, model.words([None, 'a'], (SIZE, SIZE)))
    np.testing.assert_array_equal(text.states, away.states)
    assert (np.asarray(text.states[0]) == 0).all() == (kind == 'sdxl')
    assert np.asarray(text.states[1]).any()


def test_training_tells_sdxl_the_size_of_a_picture_and_the_corner_of_its_crop(tmp_path):
  model = sampling.load(folder_of(parts(tmp_path, 'sdxl'), tmp_path))
  folder = tmp_path / 'pictures'
  folder.mkdir()
  noisy = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
  Image.fromarray(noisy).save(folder / 'a.png')
  source = SOURCES['image_folder'](path=folder, size=SIZE)
  example = TASKS['text_to_image']().example(source[0], np.random.default_rng(0))
  arrays = pipeline.as_arrays(example, model.tokenize)
  sizes = model.networks.sizes({name: leaf[None] for name, leaf in arrays.items()})
  (height, width, top, left, *target) = np.asarray(sizes)[0].astype(int)
  assert (height, width, *target) == (120, 160, SIZE, SIZE)
  cut = noisy[top : top + SIZE, left : left + SIZE] / 255
  flipped = noisy[:, ::-1][top : top + SIZE, left : left + SIZE] / 255
  assert any(np.allclose(example['image'], one, atol=1e-6) for one in (cut, flipped))
