"""Whole pipelines of the reference library and ours on their folders, at the same noise."""

import diffusers as reference
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from cdd import sampling
from cdd.data import SOURCES, TASKS, pipeline, tokens
from cdd.data.scenes import Scenes

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
SIZE, LENGTH, STEPS, SCALE = 32, 12, 4, 5.0
PROMPTS = ['a red ball on a table', 'two blue boxes at night!']
NEGATIVE = ['blurry', 'a table']
WIDTHS = dict(sd=24, sdxl=24 + 32)


def tokenizer(folder, pad):
  """A vocabulary of few words as transformers saves it."""
  captions = [Scenes(size=8)[index]['caption'] for index in range(20)]
  tokens.train(captions, folder, vocab_size=600, length=LENGTH)
  return transformers.CLIPTokenizer.from_pretrained(folder, pad_token=pad)


def text_encoder(size, width, *, kind, act, seed):
  torch.manual_seed(seed)
  config = transformers.CLIPTextConfig(
    vocab_size=size,
    hidden_size=width,
    intermediate_size=2 * width,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=LENGTH,
    hidden_act=act,
    projection_dim=20,
    bos_token_id=size - 2,
    eos_token_id=size - 1,
  )
  model = kind(config).eval()
  for name, parameter in model.named_parameters():
    if name.endswith(('embedding.weight', 'proj.weight')):  # Words should tell.
      torch.nn.init.normal_(parameter, std=0.3)
  return model


def unet(kind, channels):
  torch.manual_seed(0)
  down, up = ['CrossAttnDownBlock2D', 'DownBlock2D'], ['UpBlock2D', 'CrossAttnUpBlock2D']
  more = {}
  if kind == 'sdxl':
    down, up = down[::-1], up[::-1]
    more = dict(
      addition_embed_type='text_time',
      addition_time_embed_dim=8,
      projection_class_embeddings_input_dim=20 + 6 * 8,
      transformer_layers_per_block=(1, 2),
      use_linear_projection=True,
    )
  return reference.UNet2DConditionModel(
    sample_size=SIZE // 2,
    in_channels=channels,
    block_out_channels=(16, 32),
    down_block_types=down,
    up_block_types=up,
    layers_per_block=1,
    cross_attention_dim=WIDTHS[kind],
    attention_head_dim=(2, 4),
    norm_num_groups=8,
    **more,
  ).eval()


def parts(folder, kind, channels=4):
  """What every pipeline of a kind is made of, with random weights."""
  torch.manual_seed(1)
  vae = reference.AutoencoderKL(
    block_out_channels=(8, 16),
    down_block_types=('DownEncoderBlock2D',) * 2,
    up_block_types=('UpDecoderBlock2D',) * 2,
    norm_num_groups=4,
    sample_size=SIZE,
    scaling_factor=0.13025 if kind == 'sdxl' else 0.18215,
  ).eval()
  words = tokenizer(folder / 'words', tokens.END)
  encoder = dict(kind=transformers.CLIPTextModel, act='quick_gelu', seed=2)
  out = dict(
    vae=vae,
    unet=unet(kind, channels),
    tokenizer=words,
    text_encoder=text_encoder(len(words), 24, **encoder),
    scheduler=reference.DDIMScheduler(
      beta_schedule='scaled_linear',
      beta_start=0.00085,
      beta_end=0.012,
      timestep_spacing='leading',
      steps_offset=1,
      set_alpha_to_one=False,
      clip_sample=False,
    ),
  )
  if kind == 'sdxl':
    second = dict(kind=transformers.CLIPTextModelWithProjection, act='gelu', seed=3)
    out['tokenizer_2'] = tokenizer(folder / 'words_2', '!')
    out['text_encoder_2'] = text_encoder(len(words), 32, **second)
  else:
    out |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
  return out


def folder_of(made, folder):
  """Saves the parts that are a text-to-image pipeline."""
  kinds = {True: reference.StableDiffusionXLPipeline, False: reference.StableDiffusionPipeline}
  kinds['tokenizer_2' in made](**made).save_pretrained(folder / 'pipeline')
  return folder / 'pipeline'


def run(pipeline, latents, **settings):
  pipeline.set_progress_bar_config(disable=True)
  return pipeline(
    PROMPTS,
    num_inference_steps=STEPS,
    latents=torch.tensor(latents.transpose(0, 3, 1, 2)),
    output_type='np',
    **settings,
  ).images


def noise():
  return RNG.normal(size=(2, SIZE // 2, SIZE // 2, 4)).astype(np.float32)


def pictures():
  return RNG.uniform(size=(2, SIZE, SIZE, 3)).astype(np.float32)


def same(ours, theirs, other):
  """Equal images; `other`, made without what is tested, has to be far from them."""
  apart = [float(np.abs(images - theirs).max()) for images in (ours, other)]
  print('greatest difference {:.1e}, beside {:.1e}'.format(*apart))
  assert apart[0] < 1e-4 and apart[1] > 1e-2


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


def test_a_controlnet_beside_a_pipeline(tmp_path):
  made, latents, images = parts(tmp_path, 'sd'), noise(), pictures()
  folder = folder_of(made, tmp_path)
  torch.manual_seed(4)
  net = reference.ControlNetModel.from_unet(
    made['unet'], conditioning_embedding_out_channels=(8, 16)
  )
  for name, parameter in net.named_parameters():
    if 'controlnet' in name:  # What training would have moved from zero.
      torch.nn.init.normal_(parameter, std=0.2)
  net.eval().save_pretrained(tmp_path / 'controlnet')
  pipeline = reference.StableDiffusionControlNetPipeline(controlnet=net, **made)
  image = torch.tensor(images.transpose(0, 3, 1, 2))
  theirs = run(pipeline, latents, image=image, guidance_scale=SCALE, negative_prompt=NEGATIVE)
  model = sampling.load(folder, adapter=tmp_path / 'controlnet')
  draw = lambda images: model(
    PROMPTS, images, latents=latents, steps=STEPS, guidance=SCALE, negative=NEGATIVE
  )
  same(draw(images), theirs, draw(images[::-1]))


def test_a_t2i_adapter_beside_a_pipeline(tmp_path):
  made, latents, images = parts(tmp_path, 'sd'), noise(), pictures()
  folder = folder_of(made, tmp_path)
  torch.manual_seed(5)
  adapter = reference.T2IAdapter(
    channels=(16, 32), downscale_factor=2, num_res_blocks=1, adapter_type='full_adapter'
  ).eval()
  adapter.save_pretrained(tmp_path / 'adapter')
  pipeline = reference.StableDiffusionAdapterPipeline(adapter=adapter, **made)
  image = torch.tensor(images.transpose(0, 3, 1, 2))
  theirs = run(pipeline, latents, image=image, guidance_scale=SCALE, negative_prompt=NEGATIVE)
  model = sampling.load(folder, adapter=tmp_path / 'adapter')
  draw = lambda images: model(
    PROMPTS, images, latents=latents, steps=STEPS, guidance=SCALE, negative=NEGATIVE
  )
  same(draw(images), theirs, draw(images[::-1]))


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
