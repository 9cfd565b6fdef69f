"""Our networks beside PyTorch's, weights written by the reference and read by us, and back."""

import json
import shutil

import diffusers as reference
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from cdd.core.errors import UserError
from cdd.core.types import Text
from cdd.models import components, functional
from cdd.pretrained import diffusers

RNG = np.random.default_rng(0)


def close(ours, theirs, tolerance=1e-4):
  ours, theirs = np.asarray(ours), theirs.detach().numpy()
  assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def nchw(x):
  return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def nhwc(x):
  return x.permute(0, 2, 3, 1)


def unet(**fields):
  torch.manual_seed(0)
  return reference.UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(16, 32, 32),
    down_block_types=('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'),
    layers_per_block=2,
    cross_attention_dim=24,
    norm_num_groups=8,
    **fields,
  ).eval()


def vae():
  torch.manual_seed(1)
  return reference.AutoencoderKL(
    block_out_channels=(8, 16, 16),
    down_block_types=('DownEncoderBlock2D',) * 3,
    up_block_types=('UpDecoderBlock2D',) * 3,
    layers_per_block=1,
    norm_num_groups=4,
    sample_size=16,
  ).eval()


def text(activation='quick_gelu'):
  torch.manual_seed(2)
  return transformers.CLIPTextModel(
    transformers.CLIPTextConfig(
      vocab_size=50,
      hidden_size=24,
      intermediate_size=48,
      num_hidden_layers=2,
      num_attention_heads=4,
      max_position_embeddings=10,
      hidden_act=activation,
      bos_token_id=0,
      eos_token_id=1,
    )
  ).eval()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('pipeline')
  unet(attention_head_dim=(2, 4, 4)).save_pretrained(path / 'unet')
  vae().save_pretrained(path / 'vae')
  text().save_pretrained(path / 'text_encoder')
  scheduler = reference.DDIMScheduler(prediction_type='v_prediction')
  scheduler.save_pretrained(path / 'scheduler')
  return path


def run(loaded, component, method, *args):
  make = lambda: components.make(component, loaded.configs[component])
  apply, _ = functional.abstract(make)
  start = len(component) + 1
  tree = {k[start:]: v for k, v in loaded.params.items() if k.startswith(component + '.')}
  return apply(tree, method, *args)


@pytest.mark.parametrize(
  'fields',
  [
    dict(attention_head_dim=4),
    dict(attention_head_dim=(2, 4, 4), use_linear_projection=True),
    dict(attention_head_dim=2, flip_sin_to_cos=False, freq_shift=1),
  ],
)
def test_the_unet_equals_diffusers(tmp_path, fields):
  theirs = unet(**fields)
  theirs.save_pretrained(tmp_path / 'unet')
  z = RNG.normal(size=(2, 8, 8, 4)).astype(np.float32)
  states = RNG.normal(size=(2, 6, 24)).astype(np.float32)
  index = np.array([3, 750])
  out = run(diffusers.load(tmp_path), 'unet', '__call__', z, jnp.asarray(index), Text(states))
  with torch.no_grad():
    expected = theirs(nchw(z), torch.tensor(index), torch.tensor(states)).sample
  close(out, nhwc(expected))


def test_the_autoencoder_equals_diffusers(folder):
  loaded, theirs = diffusers.load(folder), vae()
  images = RNG.uniform(-1, 1, size=(2, 16, 16, 3)).astype(np.float32)
  mean, log_variance = run(loaded, 'vae', 'encode', images)
  with torch.no_grad():
    posterior = theirs.encode(nchw(images)).latent_dist
    decoded = theirs.decode(posterior.mean).sample
  close(mean, nhwc(posterior.mean))
  close(log_variance, nhwc(posterior.logvar))
  close(run(loaded, 'vae', 'decode', mean), nhwc(decoded))


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
def test_the_text_encoder_equals_transformers(tmp_path, activation):
  theirs = text(activation)
  theirs.save_pretrained(tmp_path / 'text_encoder')
  tokens = RNG.integers(0, 50, size=(2, 10)).astype(np.int32)
  out = run(diffusers.load(tmp_path), 'text_encoder', '__call__', tokens)
  with torch.no_grad():
    expected = theirs(torch.tensor(tokens.astype(np.int64))).last_hidden_state
  close(out.last, expected)


def test_what_we_write_diffusers_reads_and_computes_the_same(folder, tmp_path):
  loaded = diffusers.load(folder)
  diffusers.save(loaded, tmp_path / 'ours', dtype=np.float32)
  z = torch.randn(1, 4, 8, 8)
  states = torch.randn(1, 6, 24)
  again, info = reference.UNet2DConditionModel.from_pretrained(
    tmp_path / 'ours' / 'unet', output_loading_info=True
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  with torch.no_grad():
    first = unet(attention_head_dim=(2, 4, 4))(z, 5, states).sample
    second = again.eval()(z, 5, states).sample
  torch.testing.assert_close(first, second)
  words = torch.arange(10)[None]
  encoder = transformers.CLIPTextModel.from_pretrained(tmp_path / 'ours' / 'text_encoder').eval()
  with torch.no_grad():
    torch.testing.assert_close(encoder(words).last_hidden_state, text()(words).last_hidden_state)
  images = torch.rand(1, 3, 16, 16)
  coder = reference.AutoencoderKL.from_pretrained(tmp_path / 'ours' / 'vae').eval()
  with torch.no_grad():
    torch.testing.assert_close(coder(images).sample, vae()(images).sample)


def test_a_round_trip_keeps_every_parameter(folder, tmp_path):
  loaded = diffusers.load(folder)
  diffusers.save(loaded, tmp_path / 'ours', dtype=np.float32)
  again = diffusers.load(tmp_path / 'ours')
  assert again.configs == loaded.configs
  assert again.scheduler['prediction_type'] == 'v_prediction'
  assert loaded.params.keys() == again.params.keys()
  assert all(np.array_equal(loaded.params[k], again.params[k]) for k in loaded.params)


def test_every_missing_unexpected_and_misshapen_tensor_is_listed(folder, tmp_path):
  shutil.copytree(folder / 'vae', tmp_path / 'vae')
  path = tmp_path / 'vae' / 'diffusion_pytorch_model.safetensors'
  tensors = load_file(path)
  tensors['stray'] = tensors.pop('quant_conv.bias')
  tensors['encoder.conv_in.weight'] = tensors['encoder.conv_in.weight'][:4]
  save_file(tensors, path)
  with pytest.raises(UserError) as error:
    diffusers.load(tmp_path)
  for words in ('missing quant_conv.bias', 'unexpected stray', 'encoder.conv_in.weight has shape'):
    assert words in str(error.value)


def test_a_truncated_file_is_named(folder, tmp_path):
  shutil.copytree(folder / 'vae', tmp_path / 'vae')
  path = tmp_path / 'vae' / 'diffusion_pytorch_model.safetensors'
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(UserError, match='cannot be read'):
    diffusers.load(tmp_path)


def test_a_missing_folder_or_config_is_named(folder, tmp_path):
  with pytest.raises(UserError, match='nowhere'):
    diffusers.load(tmp_path / 'nowhere')
  (tmp_path / 'unet').mkdir()
  with pytest.raises(UserError, match='config.json'):
    diffusers.load(tmp_path)


def test_an_unknown_block_is_an_error_that_names_the_file_and_the_choices(folder, tmp_path):
  shutil.copytree(folder / 'unet', tmp_path / 'unet')
  path = tmp_path / 'unet' / 'config.json'
  fields = json.loads(path.read_text())
  fields['down_block_types'][0] = 'AttnDownBlock2D'
  path.write_text(json.dumps(fields))
  with pytest.raises(UserError, match="unet/config.json: .*'AttnDownBlock2D'.*CrossAttnDown"):
    diffusers.load(tmp_path)
