"""Adapters beside PyTorch's: weights written by the reference and read by us, and back."""

import math
import re
import types

import diffusers as reference
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
from flax import nnx
from torch_peers import (
  CONFIG,
  INDEX,
  LATENTS,
  PIXELS,
  RNG,
  T2I,
  TEXT,
  XL,
  XL_FIELDS,
  XL_TEXT,
  XL_UP,
  Z,
  abstract_unet,
  adapted,
  again,
  close,
  nchw,
  nhwc,
  predict,
  same_state,
  seen,
  shaken,
  torch_controlnet,
  torch_predict,
  torch_t2i,
  torch_unet,
  tree_of,
  with_controlnet,
  with_t2i,
)

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.types import Condition
from cdd.models import assemble, functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS, t2i_adapter
from cdd.models.adapters.adapter import Spec, parameters
from cdd.models.networks import SPACES, Networks
from cdd.models.unet import UNetConfig
from cdd.pretrained import adapter_folders as adapters
from cdd.pretrained import names

SD15 = UNetConfig(cross_attention_dim=768)
SDXL = UNetConfig(
  block_out_channels=(320, 640, 1280),
  down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
  up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
  cross_attention_dim=2048,
)


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_a_controlnet_folder_computes_as_in_diffusers_and_comes_back(order, tmp_path):
  unet = torch_unet()
  control = torch_controlnet(controlnet_conditioning_channel_order=order)
  control.save_pretrained(tmp_path / 'theirs')
  spec, weights = adapters.start(dict(name='controlnet', path=tmp_path / 'theirs'), CONFIG)
  got = predict(*adapted(unet, spec, weights), seen(PIXELS))
  close(got, with_controlnet(unet, control, PIXELS))
  adapters.save(spec, weights, tmp_path / 'ours', dtype=np.float32)
  back = again(reference.ControlNetModel, tmp_path / 'ours')
  assert same_state(back, control)
  assert back.config.controlnet_conditioning_channel_order == order
  assert adapters.config_of(tmp_path / 'ours') == spec


@pytest.mark.parametrize('kind', T2I)
def test_a_t2i_adapter_folder_computes_as_in_diffusers_and_comes_back(kind, tmp_path):
  unet, adapter = torch_unet(), torch_t2i(kind)
  adapter.save_pretrained(tmp_path / 'theirs')
  spec, weights = adapters.start(dict(name='t2i_adapter', path=tmp_path / 'theirs'), CONFIG)
  got = predict(*adapted(unet, spec, weights), seen(PIXELS), once=True)
  close(got, with_t2i(unet, adapter, PIXELS))
  assert np.abs(got - nhwc(torch_predict(unet))).max() > 1e-2  # The features were added.
  adapters.save(spec, weights, tmp_path / 'ours', dtype=np.float32)
  assert same_state(again(reference.T2IAdapter, tmp_path / 'ours'), adapter)
  assert adapters.config_of(tmp_path / 'ours') == spec


@pytest.mark.parametrize('name', ['controlnet', 't2i_adapter'])
def test_the_adapters_of_sdxl_compute_as_in_diffusers_and_come_back(name, tmp_path):
  """An SDXL U-Net takes a T2I-Adapter's first feature after its first level, the last after all."""
  unet = torch_unet(**XL_FIELDS, up_block_types=XL_UP)
  theirs, reads = dict(
    controlnet=lambda: (torch_controlnet(**XL_FIELDS), with_controlnet),
    t2i_adapter=lambda: (torch_t2i('full_adapter_xl'), with_t2i),
  )[name]()
  theirs.save_pretrained(tmp_path / 'theirs')
  spec, weights = adapters.start(dict(name=name, path=tmp_path / 'theirs'), XL)
  got = predict(*adapted(unet, spec, weights, XL), seen(PIXELS, XL_TEXT))
  close(got, reads(unet, theirs, PIXELS, text=XL_TEXT))
  assert np.abs(got - nhwc(torch_predict(unet, text=XL_TEXT))).max() > 1e-2
  adapters.save(spec, weights, tmp_path / 'ours', dtype=np.float32)
  assert same_state(again(type(theirs), tmp_path / 'ours'), theirs)
  assert adapters.config_of(tmp_path / 'ours') == spec


@pytest.mark.parametrize('kind', T2I)
@pytest.mark.parametrize('channels', [1, 3])
def test_features_of_odd_sizes_equal_diffusers(kind, channels):
  """The average pools keep a last, narrower column, as the U-Net's convolutions do."""
  adapter = torch_t2i(kind, in_channels=channels)
  settings = {'kind': kind, **adapter.config}
  settings = {name: settings[name] for name in parameters(ADAPTERS['t2i_adapter'])}
  make = lambda: ADAPTERS['t2i_adapter'](CONFIG, rngs=nnx.Rngs(0), **settings)
  apply, shapes = functional.abstract(make)
  image = RNG.uniform(size=(1, 40, 24, channels)).astype(np.float32)
  got = apply(tree_of(adapter, shapes), 'hints', seen(image))
  with torch.no_grad():
    expected = adapter(nchw(image))
  assert [x.shape[1:3] for x in got] == [(10, 6), (5, 3), (3, 2), (2, 1)]
  for ours, theirs in zip(got, expected, strict=True):
    close(ours, theirs)


SIZES_OF_THE_PUBLISHED = [
  ('controlnet', {}, SD15, 361_279_120),
  ('t2i_adapter', {}, SD15, 77_369_280),
  ('t2i_adapter', dict(in_channels=1), SD15, 77_000_640),
  ('t2i_adapter', dict(kind='light_adapter'), SD15, 18_689_200),
  ('t2i_adapter', dict(kind='full_adapter_xl'), SDXL, 79_028_160),
]


@pytest.mark.parametrize(('name', 'settings', 'unet', 'count'), SIZES_OF_THE_PUBLISHED)
def test_at_full_size_an_adapter_has_as_many_parameters_as_the_published(
  name, settings, unet, count
):
  spec, _ = adapters.start(dict(name=name, **settings), unet)
  _, shapes = functional.abstract(lambda: adapters.module(spec))
  assert sum(math.prod(leaf.shape) for leaf in shapes.values()) == count


def test_an_image_that_the_unshuffle_does_not_divide_is_named():
  with pytest.raises(UserError, match='downscale_factor 8 .* image of 20 x 32'):
    t2i_adapter.unshuffle(np.zeros((1, 20, 32, 3)), 8)


MASK = (RNG.uniform(size=(2, 8, 8, 1)) > 0.5).astype(np.float32)


def masked(image, mask=MASK):
  return Condition(dict(condition=image, mask=mask), TEXT)


@pytest.mark.parametrize('name', ['controlnet', 't2i_adapter'])
def test_an_adapter_of_four_channels_reads_the_picture_and_then_the_mask(name, tmp_path):
  unet, mask = torch_unet(), RNG.uniform(size=PIXELS[..., :1].shape).astype(np.float32)
  theirs, reads = dict(
    controlnet=lambda: (torch_controlnet(conditioning_channels=4), with_controlnet),
    t2i_adapter=lambda: (torch_t2i('full_adapter', in_channels=4), with_t2i),
  )[name]()
  theirs.save_pretrained(tmp_path / 'theirs')
  spec, weights = adapters.start(dict(name=name, path=tmp_path / 'theirs'), CONFIG)
  got = predict(*adapted(unet, spec, weights), masked(PIXELS, mask))
  close(got, reads(unet, theirs, np.concatenate([PIXELS, mask], -1)))
  module = nnx.eval_shape(lambda: adapters.module(spec))
  assert module.reads == dict(condition='pixel', mask='pixel')
  adapters.save(spec, weights, tmp_path / 'ours', dtype=np.float32)
  assert same_state(again(type(theirs), tmp_path / 'ours'), theirs)


def test_an_inpainting_unet_reads_z_the_mask_and_what_it_leaves_as_in_diffusers(tmp_path):
  unet = torch_unet(in_channels=9)
  unet.save_pretrained(tmp_path / 'theirs')
  spec, weights = adapters.start(dict(name='concat', path=tmp_path / 'theirs'), CONFIG)
  make, config, _ = assemble.with_adapter(spec, weights, CONFIG, {}, jnp.float32)
  module = nnx.eval_shape(make)
  assert config.in_channels == 9
  assert module.adapter.reads == dict(mask='mask', condition='latent')
  apply, _ = functional.bind(module)
  got = predict(apply, trees.prefixed(weights, 'unet'), masked(LATENTS), once=True)
  close(got, torch_predict(unet, np.concatenate([Z, MASK, LATENTS], -1)))


@pytest.mark.parametrize('name', ['concat', 'mu_mix'])
def test_a_mask_is_a_channel_of_zeros_at_first(name):
  unet = torch_unet()
  prior = trees.prefixed(tree_of(unet, functional.bind(abstract_unet(CONFIG))[1]), 'unet')
  spec, _ = adapters.start(dict(name=name, masked=True), CONFIG)
  make, _, brought = assemble.with_adapter(spec, None, CONFIG, prior, jnp.float32)
  apply, _ = functional.bind(nnx.eval_shape(make))
  got = predict(apply, prior | brought, masked(LATENTS))
  close(got, torch_predict(unet), tolerance=1e-5)
  path = dict(concat='unet.conv_in.kernel', mu_mix='adapter.encoder.conv_in.kernel')[name]
  kernel, first = np.asarray(brought[path]), np.asarray(prior['unet.conv_in.kernel'])
  assert np.array_equal(kernel[:, :, :4], first) and not kernel[:, :, 4:].any()
  # The mask comes right after z in the one, and after the condition in the other.
  assert kernel.shape[2] == dict(concat=9, mu_mix=5)[name]


def test_a_mask_at_the_size_of_latents_is_what_pytorch_interpolates():
  mask = RNG.uniform(size=(2, 32, 32, 1)).astype(np.float32)
  networks = Networks(**dict.fromkeys(Networks._fields))._replace(factor=4)
  got = SPACES['mask'](networks, {}, dict(mask=mask), 'mask', None)
  expected = torch.nn.functional.interpolate(nchw(mask), size=(8, 8))
  assert np.array_equal(got, nhwc(expected))


def encoded(states):
  """What a text encoder would give."""
  return types.SimpleNamespace(last=states, penultimate=states, pooled=states[:, 0])


def test_a_dropped_condition_is_zeros_whatever_the_adapter_reads():
  networks = Networks(**dict.fromkeys(Networks._fields))._replace(
    factor=4,
    scale=2.0,
    shift=0.5,
    reads=dict(condition='unscaled_latent', mask='pixel'),
    text_encoder=lambda params, method, tokens: encoded(tokens),
  )
  raw = dict(condition_latents=LATENTS, mask=np.ones((2, 32, 32, 1)), tokens=TEXT.states)
  there = networks.condition({}, raw).arrays
  dropped = networks.condition({}, raw | dict(condition_present=np.float32([1, 0]))).arrays
  for name, array in there.items():
    assert np.array_equal(dropped[name][0], array[0]) and np.asarray(array[1]).any()
    assert not np.asarray(dropped[name][1]).any()


def widened():
  """PyTorch's 4-channel U-Net and, as the build makes them of it, our spec and parameters."""
  unet = torch_unet()
  shapes = functional.bind(abstract_unet(CONFIG))[1]
  prior = trees.prefixed(tree_of(unet, shapes), 'unet')
  spec, _ = adapters.start(dict(name='concat'), CONFIG)
  _, config, brought = assemble.with_adapter(spec, None, CONFIG, prior, jnp.float32)
  return unet, config, trees.select(prior | brought, 'unet')


def test_concat_starts_as_the_unconditional_model_exactly():
  unet, config, params = widened()
  # In binary fractions the first convolution is exact, in whichever order a processor adds it up.
  exact = lambda x: np.round(np.asarray(x) * 64) / 64
  params = {**params, 'conv_in.kernel': exact(params['conv_in.kernel'])}
  c, z = seen(exact(LATENTS)), exact(Z)
  plain, _ = functional.bind(abstract_unet(CONFIG))
  wide, _ = functional.bind(Adapted(abstract_unet(config), ADAPTERS['concat'](config, rngs=None)))
  narrow = {**params, 'conv_in.kernel': params['conv_in.kernel'][:, :, :4]}
  expected = plain(narrow, '__call__', z, jnp.asarray(INDEX), TEXT)
  got = predict(wide, trees.prefixed(params, 'unet'), c, z=z)
  assert np.array_equal(got, expected)
  moved = {**params, 'conv_in.kernel': params['conv_in.kernel'] + 0.1}
  got, other = (predict(wide, trees.prefixed(moved, 'unet'), k) for k in (c, seen(Z)))
  assert np.abs(got - other).max() > 1e-2


def test_an_eight_channel_unet_computes_as_in_diffusers_and_comes_back(tmp_path):
  unet = torch_unet(in_channels=8)
  unet.save_pretrained(tmp_path / 'theirs')
  settings = dict(name='concat', path=tmp_path / 'theirs')
  spec, weights = adapters.start(settings, CONFIG)
  assert spec.unet == CONFIG._replace(in_channels=8)
  _, config, brought = assemble.with_adapter(spec, weights, CONFIG, {}, jnp.float32)
  assert config == spec.unet and brought.keys() == trees.prefixed(weights, 'unet').keys()
  assert ADAPTERS['concat'].prepare(spec.unet, weights) == (spec.unet, weights)  # Widened no more.
  adapter = ADAPTERS['concat'](spec.unet, rngs=None)
  apply, _ = functional.bind(Adapted(abstract_unet(spec.unet), adapter))
  got = predict(apply, trees.prefixed(weights, 'unet'), seen(LATENTS), once=True)
  close(got, torch_predict(unet, np.concatenate([Z, LATENTS], -1)))
  adapters.save(spec, weights, tmp_path / 'ours', dtype=np.float32)
  assert same_state(again(reference.UNet2DConditionModel, tmp_path / 'ours'), unet)


def test_a_widened_unet_is_read_by_diffusers(tmp_path):
  unet, config, params = widened()
  adapters.save(Spec('concat', config, {}), params, tmp_path / 'ours', dtype=np.float32)
  wide = again(reference.UNet2DConditionModel, tmp_path / 'ours')
  both = torch_predict(wide, np.concatenate([Z, LATENTS], -1))
  torch.testing.assert_close(both, torch_predict(unet), rtol=1e-5, atol=1e-5)


def test_a_condition_beside_z_is_not_scaled():
  """InstructPix2Pix encodes its condition to the autoencoder's mode, without the scale."""
  vae = lambda params, method, images: (images[:, ::8, ::8, :1] + 0.5, None)
  empty = dict.fromkeys(Networks._fields)
  networks = Networks(**empty)._replace(
    vae=vae, scale=0.18, shift=0.1, factor=8, reads=dict(condition='unscaled_latent')
  )
  raw = dict(image=PIXELS, condition=PIXELS)
  mode = 2 * PIXELS[:, ::8, ::8, :1] - 1 + 0.5
  image = networks._replace(text_encoder=None).latents({}, raw, 'condition')
  np.testing.assert_allclose(image, (mode - 0.1) * 0.18, rtol=1e-5, atol=1e-6)
  encoder = lambda params, method, tokens: encoded(tokens)
  c = networks._replace(text_encoder=encoder).condition({}, raw | dict(tokens=TEXT.states))
  np.testing.assert_allclose(c.arrays['condition'], mode, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'settings', [dict(per_level=True), dict(sees_t=True), dict(masked=True, per_level=True)]
)
def test_the_recipe_of_the_docs_runs_a_mu_mix_folder_in_pytorch(settings, tmp_path):
  page = (tiny.ROOT / 'docs' / 'mu_mix.md').read_text()
  code = re.search(r'```python\n(.*?)```', page, re.S)[1]
  assert len(code.splitlines()) < 60
  recipe = {}
  exec(code, recipe)
  channels = 4 + ('masked' in settings)
  unet, encoder = torch_unet(), shaken(torch_unet(in_channels=channels), seed=3)
  spec = Spec('mu_mix', CONFIG, settings)
  shapes = functional.abstract(lambda: adapters.module(spec))[1]
  state = {key: leaf.numpy() for key, leaf in encoder.state_dict().items()}
  state = {f'encoder.{key}': leaf for key, leaf in state.items()}
  state |= dict(mu=np.array([0.1, -0.4, 0.7, 0.2, 0.5] if 'per_level' in settings else 0.3))
  wanted = [names.torch_key(path) for path in shapes]
  weights = names.convert({key: state[key] for key in wanted}, shapes, 'the reference')
  adapters.save(spec, weights, tmp_path / 'ours', dtype=np.float32)
  again, loaded = adapters.start(dict(name='mu_mix', path=tmp_path / 'ours'), CONFIG)
  assert again.settings == dict(per_level=False, sees_t=False, masked=False) | settings
  assert all(np.array_equal(loaded[path], weights[path]) for path in shapes)
  c, condition = seen(LATENTS), LATENTS
  if 'masked' in settings:
    c = masked(LATENTS)
    condition = np.concatenate([LATENTS, MASK], -1)
  got = predict(*adapted(unet, again, loaded), c)
  with torch.no_grad():
    mu_mix = recipe['load_mu_mix'](unet, tmp_path / 'ours')
    arrays = nchw(Z), nchw(condition), torch.tensor(INDEX), torch.tensor(TEXT.states)
    expected = recipe['adapted'](unet, mu_mix, *arrays)
  close(got, expected)
  assert np.abs(got - nhwc(torch_predict(unet))).max() > 1e-2
