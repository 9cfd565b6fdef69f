"""An autoencoder beside the prior: sampled, trained with, written; the tiny one as in diffusers."""

import json

import diffusers as reference
import numpy as np
import pytest
import tiny
import torch
import torch_peers as peers
from safetensors.numpy import load_file
from torch_pipelines import PROMPTS, SCALE, STEPS, folder_of, noise, parts, run, same

from cdd import sampling
from cdd.core.errors import UserError
from cdd.models import components, functional
from cdd.pretrained import diffusers, families, priors, supported
from cdd.pretrained.convert import convert
from cdd.runs import loop, planning

RNG = np.random.default_rng(0)
TINY = dict(
  encoder_block_out_channels=(8, 8),
  decoder_block_out_channels=(12, 12),
  num_encoder_blocks=(1, 2),
  num_decoder_blocks=(2, 1),
)


def kl(seed=7, **fields):
  torch.manual_seed(seed)
  shape = dict(
    block_out_channels=(4, 8),
    down_block_types=('DownEncoderBlock2D',) * 2,
    up_block_types=('UpDecoderBlock2D',) * 2,
    layers_per_block=1,
    norm_num_groups=2,
    scaling_factor=0.3,
  )
  return reference.AutoencoderKL(**shape | fields).eval()


def taesd(**fields):
  torch.manual_seed(8)
  return peers.shaken(reference.AutoencoderTiny(**TINY | fields))


@pytest.mark.parametrize('fields', [TINY, {}], ids=['small', 'as published'])
def test_the_tiny_autoencoder_equals_diffusers(fields, tmp_path):
  torch.manual_seed(0)
  theirs = peers.shaken(reference.AutoencoderTiny(**fields))
  theirs.save_pretrained(tmp_path)
  part = diffusers.load_component(tmp_path, 'vae')
  assert part.config.factor == (8 if not fields else 2)
  apply, _ = functional.abstract(lambda: components.make('vae', part.config))
  tree = {path.removeprefix('vae.'): leaf for path, leaf in part.params.items()}
  images = RNG.uniform(-1, 1, size=(2, 16, 24, 3)).astype(np.float32)
  latents = 2 * RNG.normal(size=(2, 4, 6, 4)).astype(np.float32)
  with torch.no_grad():
    encoded = theirs.encode(peers.nchw(images)).latents
    decoded = theirs.decode(peers.nchw(latents)).sample
  mean, _ = apply(tree, 'encode', images)
  peers.close(mean, encoded, 1e-5)
  peers.close(apply(tree, 'decode', latents), decoded, 1e-5)


@pytest.mark.parametrize('make', [kl, taesd])
def test_the_pipeline_with_another_autoencoder_makes_our_image(make, tmp_path):
  """In the reference as `vae=`; its own scaling_factor counts."""
  made, latents = parts(tmp_path, 'sd'), noise()
  folder = folder_of(made, tmp_path)
  make().save_pretrained(tmp_path / 'autoencoder')
  vae = type(make()).from_pretrained(tmp_path / 'autoencoder')
  pipeline = reference.StableDiffusionPipeline.from_pretrained(folder, vae=vae)
  theirs = run(pipeline, latents, guidance_scale=SCALE)
  draw = lambda model: model(PROMPTS, latents=latents, steps=STEPS, guidance=SCALE)
  ours = draw(sampling.load(folder, vae=str(tmp_path / 'autoencoder')))
  same(ours, theirs, draw(sampling.load(folder)))


def test_a_pipeline_written_with_a_tiny_autoencoder_is_read_as_one(tmp_path):
  made, latents = parts(tmp_path, 'sd'), noise()
  folder = folder_of(made | dict(vae=taesd()), tmp_path)
  pipeline = reference.StableDiffusionPipeline.from_pretrained(folder)
  theirs = run(pipeline, latents, guidance_scale=1.0)
  ours = sampling.load(folder)(PROMPTS, latents=latents, steps=STEPS)
  assert np.abs(ours - theirs).max() < 1e-4 and ours.std() > 0.02


@pytest.mark.parametrize('make', [kl, taesd])
def test_a_run_is_trained_with_it_and_exports_and_converts_it(make, prior, tmp_path):
  theirs = make()
  theirs.save_pretrained(tmp_path / 'autoencoder')
  config = tiny.load('depth.py:tiny', prior)
  config.prior.vae = str(tmp_path / 'autoencoder')
  config.data.cache, config.evaluation = 4, None
  loop.run(config, tmp_path / 'run')
  model = sampling.load(tmp_path / 'run')
  images = RNG.uniform(size=(1, 32, 32, 3)).astype(np.float32)
  scaled = 0.3 if make is kl else 1.0
  with torch.no_grad():
    encoded = theirs.encode(peers.nchw(2 * images - 1))
    encoded = encoded.latent_dist.mode() if make is kl else encoded.latents
  peers.close(model.networks.encode(model.params, images), scaled * encoded, 1e-4)
  convert(str(tmp_path / 'run'), tmp_path / 'out', dtype=np.float32)
  again, info = type(theirs).from_pretrained(tmp_path / 'out/vae', output_loading_info=True)
  assert not any(info[name] for name in ('missing_keys', 'unexpected_keys'))
  assert peers.same_state(again, theirs)
  assert again.config.scaling_factor == scaled
  index = json.loads((tmp_path / 'out/model_index.json').read_text())
  assert index['vae'] == ['diffusers', type(theirs).__name__]
  planned = planning.prior(config.prior, None)
  assert planned.configs['vae'] == model_config(tmp_path / 'autoencoder')


def model_config(folder):
  return families.parse('vae', json.loads((folder / 'config.json').read_text()))


def test_the_autoencoder_of_a_pipeline_is_taken_from_it(prior, plain):
  model = sampling.load('packaged:depth', vae='packaged')
  own = sampling.load('packaged:depth')
  assert all(np.array_equal(own.params[path], leaf) for path, leaf in model.params.items())
  assert priors.vae_folder(str(prior)) == prior / 'vae'
  with pytest.raises(UserError, match="no autoencoder at 'nowhere': there is no 'nowhere'"):
    sampling.load(prior, vae='nowhere')
  with pytest.raises(
    UserError, match='vae is a UNet2DConditionModel; only AutoencoderKL or Autoenc'
  ):
    sampling.load(prior, vae=str(prior / 'unet'))


def test_an_autoencoder_of_other_channels_is_refused(prior, tmp_path):
  kl(latent_channels=16).save_pretrained(tmp_path)
  with pytest.raises(UserError, match='has latents of 16 channels; the U-Net predicts 4'):
    sampling.load(prior, vae=str(tmp_path))


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    (dict(act_fn='gelu'), "act_fn is 'gelu'"),
    (dict(upsampling_scaling_factor=4), 'upsampling_scaling_factor is 4'),
    (dict(num_decoder_blocks=[3, 1]), r'num_decoder_blocks is \[3, 1\] \(supported: one for each'),
    (dict(encoder_block_out_channels=[8, 8, 8, 16]), 'as wide at each level'),
  ],
)
def test_a_tiny_autoencoder_that_computes_something_else_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    supported.tiny_vae(fields)


def test_what_is_written_of_a_tiny_autoencoder_is_all_that_diffusers_needs(tmp_path):
  config = components.OTHERS['AutoencoderTiny'].config(**TINY)
  apply, shapes = functional.abstract(lambda: components.make('vae', config))
  params = {f'vae.{path}': RNG.normal(size=leaf.shape) for path, leaf in shapes.items()}
  diffusers.save(diffusers.Pretrained(dict(vae=config), params, {}, {}), tmp_path / 'out')
  peers.again(reference.AutoencoderTiny, tmp_path / 'out/vae')
  stored = load_file(tmp_path / 'out/vae/diffusion_pytorch_model.safetensors')
  assert len(stored) == len(params)
