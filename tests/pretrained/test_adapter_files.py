"""Adapters in the keys they were first published under, and what is refused."""

import json

import numpy as np
import pytest
from diffusers.loaders import single_file_utils
from safetensors.numpy import save_file
from torch_peers import CONFIG, T2I, torch_controlnet, torch_t2i, torch_unet, tree_of

from cdd.core.errors import UserError
from cdd.models import functional
from cdd.pretrained import adapter_folders, original


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
  spec, weights = adapter_folders.start(settings, config)
  shapes = functional.abstract(lambda: adapter_folders.module(spec))[1]
  expected = tree_of(control, shapes)
  assert all(np.array_equal(weights[path], expected[path]) for path in shapes)
  lost = {key: leaf for key, leaf in whole.items() if 'zero_convs.3' not in key}
  save_file(lost | {'control_model.stray': state['conv_in.bias']}, tmp_path / 'sd.safetensors')
  with pytest.raises(UserError) as error:
    adapter_folders.load(tmp_path / 'sd.safetensors', spec)
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
  spec, weights = adapter_folders.start(
    dict(name='t2i_adapter', path=tmp_path / 'old.safetensors', **settings), CONFIG
  )
  shapes = functional.abstract(lambda: adapter_folders.module(spec))[1]
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


def test_a_config_that_lacks_a_field_or_asks_for_another_network_is_named(tmp_path):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(dict(_class_name='T2IAdapter', adapter_type='light_adapter')))
  with pytest.raises(UserError, match=r"config.json has no \['channels', 'downscale_factor'"):
    adapter_folders.config_of(tmp_path)
  path.write_text(json.dumps(dict(_class_name='ControlNetModel', class_embed_type='timestep')))
  with pytest.raises(UserError, match=f'{tmp_path}: .*class_embed_type'):
    adapter_folders.config_of(tmp_path)


@pytest.mark.parametrize(('name', 'held', 'fields', 'message'), WRONG)
def test_a_folder_of_another_kind_or_family_is_named(name, held, fields, message, tmp_path):
  make = dict(
    controlnet=torch_controlnet, unet=torch_unet, t2i_adapter=lambda: torch_t2i('full_adapter')
  )
  make[held]().save_config(tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))
  with pytest.raises(UserError, match=message):
    adapter_folders.start(dict(name=name, path=tmp_path), CONFIG)


def test_a_setting_that_an_adapter_does_not_take_and_a_pickle_are_named(tmp_path):
  with pytest.raises(UserError, match="'widths'; choose one of .*'hint_widths'"):
    adapter_folders.start(dict(name='controlnet', widths=(4, 8)), CONFIG)
  (tmp_path / 'old.pth').write_bytes(b'PK')
  with pytest.raises(UserError, match='old.pth is a pickle.*torch.load'):
    adapter_folders.start(dict(name='t2i_adapter', path=tmp_path / 'old.pth'), CONFIG)
