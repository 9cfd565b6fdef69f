"""Adapters beside PyTorch's: weights written by the reference and read by us, and back."""

import functools
import inspect
import json
import math
import re
import types

import diffusers as reference
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
from diffusers.loaders import single_file_utils
from flax import nnx
from safetensors.numpy import save_file

from cdd import build, trees
from cdd.errors import UserError
from cdd.models import functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS, t2i_adapter
from cdd.models.networks import Networks
from cdd.models.pretrained import adapters, names, original
from cdd.models.unet import UNet2DConditionModel, UNetConfig
from cdd.types import Condition, Text

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
FIELDS = dict(
  block_out_channels=(8, 8, 16, 16),
  down_block_types=('CrossAttnDownBlock2D',) * 3 + ('DownBlock2D',),
  layers_per_block=1,
  cross_attention_dim=12,
  attention_head_dim=2,
  norm_num_groups=4,
)
UP = ('UpBlock2D',) + ('CrossAttnUpBlock2D',) * 3
CONFIG = UNetConfig(**FIELDS, up_block_types=UP)
HINTS = dict(conditioning_embedding_out_channels=(4, 8, 8))
Z = RNG.normal(size=(2, 8, 8, 4)).astype(np.float32)
INDEX = np.array([10, 700])
TEXT = Text(RNG.normal(size=(2, 5, 12)).astype(np.float32))
PIXELS = RNG.uniform(size=(2, 32, 32, 3)).astype(np.float32)  # Four pixels to a latent.
LATENTS = RNG.normal(size=(2, 8, 8, 4)).astype(np.float32)
SD15 = UNetConfig(cross_attention_dim=768)
SDXL = UNetConfig(
  block_out_channels=(320, 640, 1280),
  down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
  up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
  cross_attention_dim=2048,
)
XL_FIELDS = dict(
  block_out_channels=(8, 16, 16),
  down_block_types=('DownBlock2D',) + ('CrossAttnDownBlock2D',) * 2,
  layers_per_block=1,
  cross_attention_dim=12,
  attention_head_dim=(1, 2, 4),
  transformer_layers_per_block=(1, 1, 2),
  use_linear_projection=True,
  norm_num_groups=4,
  addition_embed_type='text_time',
  addition_time_embed_dim=6,
  projection_class_embeddings_input_dim=46,  # 10 pooled and six sizes of six each.
)
XL_UP = ('CrossAttnUpBlock2D',) * 2 + ('UpBlock2D',)
XL = UNetConfig(**XL_FIELDS, up_block_types=XL_UP)
SIZES = np.array([[32, 48, 0, 3, 32, 32]] * 2, np.float32)
XL_TEXT = TEXT._replace(pooled=RNG.normal(size=(2, 10)).astype(np.float32), sizes=SIZES)
T2I = dict(
  full_adapter=dict(channels=[8, 8, 16, 16], num_res_blocks=2, downscale_factor=4),
  light_adapter=dict(channels=[8, 8, 16], num_res_blocks=3, downscale_factor=4),
)
T2I_XL = dict(channels=[8, 16, 16, 16], num_res_blocks=2, downscale_factor=8)


def shaken(module, seed=0):
  """The module with every parameter moved, the zero convolutions too."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for parameter in module.parameters():
      parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
  return module.eval()


def torch_unet(**fields):
  torch.manual_seed(0)
  return reference.UNet2DConditionModel(**dict(FIELDS, up_block_types=UP) | fields).eval()


def torch_controlnet(**fields):
  torch.manual_seed(1)
  return shaken(reference.ControlNetModel(**dict(FIELDS, **HINTS) | fields))


def torch_t2i(kind, **fields):
  torch.manual_seed(2)
  return reference.T2IAdapter(adapter_type=kind, **T2I.get(kind, T2I_XL) | fields).eval()


def nchw(x):
  return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def nhwc(x):
  return x.permute(0, 2, 3, 1).numpy()


def close(ours, theirs, tolerance=1e-4):
  ours, theirs = np.asarray(ours), nhwc(theirs.detach())
  error = np.abs(ours - theirs).max() / np.abs(theirs).max()
  print(f'relative error {error:.1e}')
  assert error <= tolerance


def tree_of(module, shapes):
  """The parameters of a PyTorch module as ours."""
  tensors = {key: leaf.numpy() for key, leaf in module.state_dict().items()}
  return names.convert(tensors, shapes, 'the reference')


@functools.cache
def abstract_unet(config):
  return nnx.eval_shape(lambda: UNet2DConditionModel(config, rngs=nnx.Rngs(0)))


def adapted(unet, spec, weights, config=CONFIG):
  """(apply, params) of our U-Net, its weights from PyTorch's, with an adapter."""
  make = lambda: ADAPTERS[spec.name](spec.unet, rngs=nnx.Rngs(1), **spec.settings)
  apply, shapes = functional.bind(Adapted(abstract_unet(config), nnx.eval_shape(make)))
  assert trees.select(shapes, 'adapter').keys() == weights.keys()
  params = trees.prefixed(tree_of(unet, trees.select(shapes, 'unet')), 'unet')
  return apply, params | trees.prefixed(weights, 'adapter')


def predict(apply, params, c, *, z=Z, once=False):
  """What an adapted U-Net of ours predicts; `once`: from hints that saw neither z nor t."""
  if not once:
    return np.asarray(apply(params, '__call__', z, c, jnp.asarray(INDEX)))
  hints = apply(params, 'hints', c)
  return np.asarray(apply(params, 'with_hints', z, c, hints, jnp.asarray(INDEX)))


def torch_predict(unet, z=Z, index=INDEX, text=TEXT, **added):
  if text.pooled is not None:
    both = dict(text_embeds=torch.tensor(text.pooled), time_ids=torch.tensor(text.sizes))
    added['added_cond_kwargs'] = both
  with torch.no_grad():
    return unet(nchw(z), torch.tensor(index), torch.tensor(text.states), **added).sample


def with_controlnet(unet, control, image, text=TEXT):
  """PyTorch's arithmetic of a ControlNet."""
  added = {}
  if text.pooled is not None:
    both = dict(text_embeds=torch.tensor(text.pooled), time_ids=torch.tensor(text.sizes))
    added['added_cond_kwargs'] = both
  with torch.no_grad():
    down, mid = control(
      nchw(Z),
      torch.tensor(INDEX),
      torch.tensor(text.states),
      nchw(image),
      return_dict=False,
      **added,
    )
  return torch_predict(
    unet, text=text, down_block_additional_residuals=down, mid_block_additional_residual=mid
  )


def with_t2i(unet, adapter, image, z=Z, text=TEXT):
  """PyTorch's arithmetic of a T2I-Adapter; the U-Net empties the list."""
  with torch.no_grad():
    features = adapter(nchw(image))
  return torch_predict(unet, z, text=text, down_intrablock_additional_residuals=list(features))


def again(cls, folder):
  """A folder of ours, read by the reference, which must miss nothing and know everything."""
  module, info = cls.from_pretrained(folder, output_loading_info=True)
  assert not any(info[name] for name in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
  fields = json.loads((folder / 'config.json').read_text())
  known = inspect.signature(cls.__init__).parameters
  assert {name for name in fields if not name.startswith('_')} <= known.keys()
  return module.eval()


def same_state(a, b):
  a, b = a.state_dict(), b.state_dict()
  return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_a_controlnet_folder_computes_as_in_diffusers_and_comes_back(order, tmp_path):
  unet = torch_unet()
  control = torch_controlnet(controlnet_conditioning_channel_order=order)
  control.save_pretrained(tmp_path / 'theirs')
  spec, weights = adapters.start(dict(name='controlnet', path=tmp_path / 'theirs'), CONFIG)
  got = predict(*adapted(unet, spec, weights), Condition(PIXELS, TEXT))
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
  got = predict(*adapted(unet, spec, weights), Condition(PIXELS, TEXT), once=True)
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
  got = predict(*adapted(unet, spec, weights, XL), Condition(PIXELS, XL_TEXT))
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
  settings = {name: settings[name] for name in adapters.parameters('t2i_adapter')}
  make = lambda: ADAPTERS['t2i_adapter'](CONFIG, rngs=nnx.Rngs(0), **settings)
  apply, shapes = functional.abstract(make)
  image = RNG.uniform(size=(1, 40, 24, channels)).astype(np.float32)
  got = apply(tree_of(adapter, shapes), 'hints', Condition(image, TEXT))
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


def widened():
  """PyTorch's 4-channel U-Net and, as the build makes them of it, our spec and parameters."""
  unet = torch_unet()
  shapes = functional.bind(abstract_unet(CONFIG))[1]
  prior = trees.prefixed(tree_of(unet, shapes), 'unet')
  _, config, brought = build.joined(dict(name='concat'), CONFIG, prior, jnp.float32)
  return unet, config, trees.select(prior | brought, 'unet')


def test_concat_starts_as_the_unconditional_model_exactly():
  unet, config, params = widened()
  c = Condition(LATENTS, TEXT)
  plain, _ = functional.bind(abstract_unet(CONFIG))
  wide, _ = functional.bind(Adapted(abstract_unet(config), ADAPTERS['concat'](config, rngs=None)))
  narrow = {**params, 'conv_in.kernel': params['conv_in.kernel'][:, :, :4]}
  expected = plain(narrow, '__call__', Z, jnp.asarray(INDEX), TEXT)
  got = predict(wide, trees.prefixed(params, 'unet'), c)
  assert np.array_equal(got, expected)
  moved = {**params, 'conv_in.kernel': params['conv_in.kernel'] + 0.1}
  got, other = (predict(wide, trees.prefixed(moved, 'unet'), k) for k in (c, c._replace(image=Z)))
  assert np.abs(got - other).max() > 1e-2


def test_an_eight_channel_unet_computes_as_in_diffusers_and_comes_back(tmp_path):
  unet = torch_unet(in_channels=8)
  unet.save_pretrained(tmp_path / 'theirs')
  settings = dict(name='concat', path=tmp_path / 'theirs')
  spec, weights = adapters.start(settings, CONFIG)
  assert spec.unet == CONFIG._replace(in_channels=8)
  _, config, brought = build.joined(settings, CONFIG, {}, jnp.float32)
  assert config == spec.unet and brought.keys() == trees.prefixed(weights, 'unet').keys()
  assert ADAPTERS['concat'].prepare(spec.unet, weights) == (spec.unet, weights)  # Widened no more.
  adapter = ADAPTERS['concat'](spec.unet, rngs=None)
  apply, _ = functional.bind(Adapted(abstract_unet(spec.unet), adapter))
  got = predict(apply, trees.prefixed(weights, 'unet'), Condition(LATENTS, TEXT), once=True)
  close(got, torch_predict(unet, np.concatenate([Z, LATENTS], -1)))
  adapters.save(spec, weights, tmp_path / 'ours', dtype=np.float32)
  assert same_state(again(reference.UNet2DConditionModel, tmp_path / 'ours'), unet)


def test_a_widened_unet_is_read_by_diffusers(tmp_path):
  unet, config, params = widened()
  adapters.save(adapters.Spec('concat', config, {}), params, tmp_path / 'ours', dtype=np.float32)
  wide = again(reference.UNet2DConditionModel, tmp_path / 'ours')
  both = torch_predict(wide, np.concatenate([Z, LATENTS], -1))
  torch.testing.assert_close(both, torch_predict(unet), rtol=1e-5, atol=1e-5)


def test_a_condition_beside_z_is_not_scaled():
  """InstructPix2Pix encodes its condition to the autoencoder's mode, without the scale."""
  vae = lambda params, method, images: (images[:, ::8, ::8, :1] + 0.5, None)
  empty = dict.fromkeys(Networks._fields)
  networks = Networks(**empty)._replace(
    vae=vae, scale=0.18, shift=0.1, condition_space='unscaled_latent'
  )
  raw = dict(image=PIXELS, condition=PIXELS)
  mode = 2 * PIXELS[:, ::8, ::8, :1] - 1 + 0.5
  image = networks._replace(text_encoder=None).latents({}, raw, 'condition')
  np.testing.assert_allclose(image, (mode - 0.1) * 0.18, rtol=1e-5, atol=1e-6)
  encoder = lambda params, method, tokens: types.SimpleNamespace(last=tokens)
  c = networks._replace(text_encoder=encoder).condition({}, raw | dict(tokens=TEXT.states))
  np.testing.assert_allclose(c.image, mode, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('settings', [dict(per_level=True), dict(sees_t=True)])
def test_the_recipe_of_the_docs_runs_a_mu_mix_folder_in_pytorch(settings, tmp_path):
  page = (tiny.ROOT / 'docs' / 'mu_mix.md').read_text()
  code = re.search(r'```python\n(.*?)```', page, re.S)[1]
  assert len(code.splitlines()) < 60
  recipe = {}
  exec(code, recipe)
  unet, encoder = torch_unet(), shaken(torch_unet(), seed=3)
  spec = adapters.Spec('mu_mix', CONFIG, settings)
  shapes = functional.abstract(lambda: adapters.module(spec))[1]
  state = {key: leaf.numpy() for key, leaf in encoder.state_dict().items()}
  state = {f'encoder.{key}': leaf for key, leaf in state.items()}
  state |= dict(mu=np.array([0.1, -0.4, 0.7, 0.2, 0.5] if 'per_level' in settings else 0.3))
  wanted = [names.torch_key(path) for path in shapes]
  weights = names.convert({key: state[key] for key in wanted}, shapes, 'the reference')
  adapters.save(spec, weights, tmp_path / 'ours', dtype=np.float32)
  again, loaded = adapters.start(dict(name='mu_mix', path=tmp_path / 'ours'), CONFIG)
  assert again.settings == dict(per_level=False, sees_t=False) | settings
  assert all(np.array_equal(loaded[path], weights[path]) for path in shapes)
  got = predict(*adapted(unet, again, loaded), Condition(LATENTS, TEXT))
  with torch.no_grad():
    mu_mix = recipe['load_mu_mix'](unet, tmp_path / 'ours')
    arrays = nchw(Z), nchw(LATENTS), torch.tensor(INDEX), torch.tensor(TEXT.states)
    expected = recipe['adapted'](unet, mu_mix, *arrays)
  close(got, expected)
  assert np.abs(got - nhwc(torch_predict(unet))).max() > 1e-2


def test_a_controlnet_in_the_original_layout_is_read_as_diffusers_converts_it(tmp_path):
  widths = (4, 4, 8, 8)  # The converter knows this depth alone.
  fields = dict(
    block_out_channels=(8, 16, 16),
    down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D', 'CrossAttnDownBlock2D'),
    layers_per_block=2,
  )
  config = CONFIG._replace(**fields)
  control = torch_controlnet(**fields, conditioning_embedding_out_channels=widths)
  state = {key: leaf.numpy() for key, leaf in control.state_dict().items()}
  table = original.controlnet(config, hint_widths=widths)
  to = {key: f'control_model.{original.rename(table, key)}' for key in state}
  assert to['down_blocks.2.attentions.1.proj_in.weight'] == (
    'control_model.input_blocks.8.1.proj_in.weight'
  )
  converted = single_file_utils.convert_controlnet_checkpoint(
    {name: name for name in to.values()}, dict(layers_per_block=2)
  )
  assert converted == to
  whole = {to[key]: state[key] for key in state}
  whole |= {'model.diffusion_model.out.2.bias': np.zeros(4, np.float32)}
  save_file(whole, tmp_path / 'sd.safetensors')
  settings = dict(name='controlnet', hint_widths=widths, path=tmp_path / 'sd.safetensors')
  spec, weights = adapters.start(settings, config)
  shapes = functional.abstract(lambda: adapters.module(spec))[1]
  expected = tree_of(control, shapes)
  assert all(np.array_equal(weights[path], expected[path]) for path in shapes)
  lost = {key: leaf for key, leaf in whole.items() if 'zero_convs.3' not in key}
  save_file(lost | {'control_model.stray': state['conv_in.bias']}, tmp_path / 'sd.safetensors')
  with pytest.raises(UserError) as error:
    adapters.load(tmp_path / 'sd.safetensors', spec)
  for words in ('missing controlnet_down_blocks.3.weight', 'unexpected control_model.stray'):
    assert words in str(error.value)


@pytest.mark.parametrize('kind', T2I)
def test_a_t2i_adapter_in_the_original_layout_is_read(kind, tmp_path):
  """The blocks of a full one are numbered through; a light one keeps a body within each."""
  adapter = torch_t2i(kind)
  state, old = adapter.adapter.state_dict(), {}
  for key, leaf in state.items():
    parts = key.split('.')
    if parts[0] == 'body' and kind == 'light_adapter':
      parts = ['body' if part == 'resnets' else part for part in parts]
    elif parts[0] == 'body':
      before = sum(len(block.resnets) for block in adapter.adapter.body[: int(parts[1])])
      number = before + (int(parts[3]) if parts[2] == 'resnets' else 0)
      parts = ['body', str(number), *parts[4 if parts[2] == 'resnets' else 2 :]]
    old['.'.join(parts)] = leaf.numpy()
  known = dict(
    full_adapter={'conv_in.weight', 'body.4.in_conv.bias', 'body.7.block2.weight'},
    light_adapter={'body.0.in_conv.weight', 'body.3.body.2.block1.bias', 'body.1.out_conv.bias'},
  )
  assert known[kind] <= old.keys() and len(old) == len(state)
  save_file(old, tmp_path / 'old.safetensors')
  settings = dict(kind=kind, **{k: v for k, v in T2I[kind].items() if k != 'channels'})
  spec, weights = adapters.start(
    dict(name='t2i_adapter', path=tmp_path / 'old.safetensors', **settings), CONFIG
  )
  shapes = functional.abstract(lambda: adapters.module(spec))[1]
  expected = tree_of(adapter, shapes)
  assert all(np.array_equal(weights[path], expected[path]) for path in shapes)


WRONG = [
  ('t2i_adapter', 'controlnet', {}, 'holds a ControlNetModel .* not a T2IAdapter'),
  ('controlnet', 't2i_adapter', {}, 'holds a T2IAdapter .* not a ControlNetModel'),
  ('controlnet', 'controlnet', dict(cross_attention_dim=1024), 'Diffusion 2 .* is 1024, not 12'),
  ('controlnet', 'controlnet', dict(global_pool_conditions=True), 'global_pool_conditions'),
  ('concat', 'unet', {}, 'a U-Net of 4 input channels; .* has 8'),
  ('t2i_adapter', 't2i_adapter', dict(channels=[8, 8, 8, 8]), r'channels is \(8, 8, 8, 8\), not'),
  ('controlnet', 'controlnet', dict(_class_name='VQModel'), "a 'VQModel', not an adapter; choose"),
]


@pytest.mark.parametrize(('name', 'held', 'fields', 'message'), WRONG)
def test_a_folder_of_another_kind_or_family_is_named(name, held, fields, message, tmp_path):
  make = dict(
    controlnet=torch_controlnet, unet=torch_unet, t2i_adapter=lambda: torch_t2i('full_adapter')
  )
  make[held]().save_config(tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))
  with pytest.raises(UserError, match=message):
    adapters.start(dict(name=name, path=tmp_path), CONFIG)


def test_a_setting_that_an_adapter_does_not_take_and_a_pickle_are_named(tmp_path):
  with pytest.raises(UserError, match="'widths'; choose one of .*'hint_widths'"):
    adapters.start(dict(name='controlnet', widths=(4, 8)), CONFIG)
  (tmp_path / 'old.pth').write_bytes(b'PK')
  with pytest.raises(UserError, match='old.pth is a pickle.*torch.load'):
    adapters.start(dict(name='t2i_adapter', path=tmp_path / 'old.pth'), CONFIG)
