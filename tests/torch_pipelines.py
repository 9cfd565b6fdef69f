"""Whole pipelines by the reference library, tiny, and how they are run beside ours."""

import diffusers as reference
import numpy as np
import torch
import transformers

from cdd import sampling
from cdd.data import tokens
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
    # Words should tell, and the states should have a mean.
    if name.endswith(('embedding.weight', 'proj.weight', 'final_layer_norm.bias')):
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


def beside(name, made, folder, latents):
  """Their pipeline with an adapter and ours: each a function of pictures and of settings."""
  adapter = controlnet(made['unet']) if name == 'controlnet' else t2i_adapter()
  adapter.save_pretrained(folder / 'adapter')
  kinds = dict(
    controlnet=reference.StableDiffusionControlNetPipeline,
    adapter=reference.StableDiffusionAdapterPipeline,
  )
  pipeline = kinds[name](**{name: adapter}, **made)
  model = sampling.load(folder_of(made, folder), adapter=folder / 'adapter')

  def theirs(images, **settings):
    image = torch.tensor(images.transpose(0, 3, 1, 2))
    guided = dict(guidance_scale=SCALE, negative_prompt=NEGATIVE)
    return run(pipeline, latents, image=image, **guided, **settings)

  def ours(images, **settings):
    guided = dict(guidance=SCALE, negative=NEGATIVE)
    return model(PROMPTS, images, latents=latents, steps=STEPS, **guided, **settings)

  return theirs, ours


def same(ours, theirs, other):
  """Equal images; `other`, made without what is tested, has to be far from them."""
  apart = [float(np.abs(images - theirs).max()) for images in (ours, other)]
  print('greatest difference {:.1e}, beside {:.1e}'.format(*apart))
  assert apart[0] < 1e-4 and apart[1] > 1e-2


def controlnet(unet):
  torch.manual_seed(4)
  net = reference.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
  for name, parameter in net.named_parameters():
    if 'controlnet' in name:  # What training would have moved from zero.
      torch.nn.init.normal_(parameter, std=0.2)
  return net.eval()


def t2i_adapter():
  torch.manual_seed(5)
  return reference.T2IAdapter(
    channels=(16, 32), downscale_factor=2, num_res_blocks=1, adapter_type='full_adapter'
  ).eval()
