"""Owns which fields of a config.json our networks follow, and the refusal of all others."""

from collections.abc import Mapping
from typing import Any

from cdd.core.errors import UserError
from cdd.models.text import ACTIVATIONS
from cdd.models.tiny_vae import TinyConfig
from cdd.models.unet import UNetConfig

# The fields of diffusers' UNet2DConditionModel that are not in UNetConfig, or not in full, and what
# ours does. Left out: `mid_block_only_cross_attention` and `addition_embed_type_num_heads`, which
# only matter to values that are refused here.
UNET = dict(
  down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
  mid_block_type=('UNetMidBlock2DCrossAttn', None),
  up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
  addition_embed_type=(None, 'text_time'),
  act_fn=('silu', 'swish'),
  attention_type=('default',),
  center_input_sample=(False,),
  class_embed_type=(None,),
  class_embeddings_concat=(False,),
  conv_in_kernel=(3,),
  conv_out_kernel=(3,),
  cross_attention_norm=(None,),
  downsample_padding=(1,),
  dropout=(0,),
  dual_cross_attention=(False,),
  encoder_hid_dim=(None,),
  encoder_hid_dim_type=(None,),
  mid_block_scale_factor=(1,),
  num_attention_heads=(None,),
  num_class_embeds=(None,),
  only_cross_attention=(False,),
  resnet_out_scale_factor=(1,),
  resnet_skip_time_act=(False,),
  resnet_time_scale_shift=('default',),
  reverse_transformer_layers_per_block=(None,),
  time_embedding_act_fn=(None,),
  time_embedding_dim=(None,),
  time_embedding_type=('positional',),
  timestep_post_act=(None,),
)
# Fields with one value for all levels, or one for each.
PER_LEVEL = (
  'down_block_types',
  'up_block_types',
  'attention_head_dim',
  'cross_attention_dim',
  'layers_per_block',
  'transformer_layers_per_block',
  'only_cross_attention',
)
NUMBERS = ('norm_num_groups',)
# Fields of config.json that change what is computed -> what is computed here.
VAE = dict(
  act_fn=('silu',),
  down_block_types=('DownEncoderBlock2D',),
  up_block_types=('UpDecoderBlock2D',),
  mid_block_add_attention=(True,),
  latents_mean=(None,),
  latents_std=(None,),
)
TINY_VAE = dict(act_fn=('relu',), upsample_fn=('nearest',), upsampling_scaling_factor=(2,))
TEXT = dict(hidden_act=tuple(ACTIVATIONS))


def refuse(fields: Mapping[str, Any], supported: Mapping[str, tuple], kind: str, more=()) -> None:
  """Checks every field that is given.

  Args:
    fields: those of a config.json.
    supported: field -> the values that are supported, of each of its entries if it is a list.
    kind: what the fields describe, for the message.
    more: further problems, for the same message.

  Raises:
    UserError: lists each field that is not supported, its value, and the choices.
  """
  problems = list(more)
  for name, choices in supported.items():
    value = fields.get(name, choices[0])
    if any(entry not in choices for entry in entries(value)):
      problems.append(f'{name} is {value!r} (supported: {", ".join(map(repr, choices))})')
  if problems:
    raise UserError(f'This {kind} is not one that can be run here: ' + '; '.join(problems) + '.')


def unet(fields: Mapping[str, Any]) -> None:
  """Whether the U-Net of this config.json is one that `UNet2DConditionModel` computes.

  Raises:
    UserError: lists every field that asks for something else.
  """
  levels = len(fields.get('block_out_channels', UNetConfig().block_out_channels))
  problems = [
    f'{name} is {fields[name]!r} (supported: one for each of the {levels} block_out_channels)'
    for name in PER_LEVEL
    if isinstance(fields.get(name), list | tuple) and len(fields[name]) != levels
  ]
  numbers = {name: fields[name] for name in NUMBERS if name in fields}
  if fields.get('addition_embed_type') == 'text_time':
    needed = ('addition_time_embed_dim', 'projection_class_embeddings_input_dim')
    numbers.update({name: fields.get(name) for name in needed})
  problems += [
    f'{name} is {value!r} (supported: a whole number)'
    for name, value in numbers.items()
    if not isinstance(value, int)
  ]
  problems = problems or sizes(fields)
  refuse(fields, UNET, 'U-Net', problems)


def sizes(fields: Mapping[str, Any]) -> list[str]:
  """What is wrong with the widths, the heads and the sides of a U-Net's config.json."""
  config = UNetConfig(**{name: fields[name] for name in UNetConfig._fields if name in fields})
  widths, groups = config.block_out_channels, config.norm_num_groups
  sides = config.sample_size if config.sample_size is not None else 1
  lists = dict(block_out_channels=widths, attention_head_dim=config.attention_head_dim)
  lists |= dict(sample_size=sides, norm_num_groups=groups)
  lists |= {name: getattr(config, name) for name in ('layers_per_block', 'cross_attention_dim')}
  problems = [
    f'{name} is {value!r} (supported: whole numbers, 1 or more)'
    for name, value in lists.items()
    if not all(type(one) is int and one > 0 for one in entries(value))
  ]
  if problems:
    return problems
  for level, width in enumerate(widths):
    heads = config.heads(level)
    if width % groups:
      problems.append(f'block_out_channels has {width} (supported: multiples of {groups} groups)')
    elif width % heads:
      problems.append(f'attention_head_dim has {heads} heads (supported: divisors of {width})')
  return problems


def entries(value) -> list | tuple:
  """A list, or one value as a list."""
  return value if isinstance(value, list | tuple) else (value,)


def vae(fields: Mapping[str, Any]) -> None:
  """Whether the autoencoder of this config.json is one that `AutoencoderKL` computes.

  Raises:
    UserError: lists every field that asks for something else.
  """
  refuse(fields, VAE, 'autoencoder')


def tiny_vae(fields: Mapping[str, Any]) -> None:
  """Whether the autoencoder of this config.json is one that `AutoencoderTiny` computes.

  Raises:
    UserError: lists every field that asks for something else.
  """
  config = TinyConfig(**{name: fields[name] for name in TinyConfig._fields if name in fields})
  levels = len(config.encoder_block_out_channels)
  lists = dict(num_encoder_blocks=config.num_encoder_blocks)
  lists |= dict(num_decoder_blocks=config.num_decoder_blocks)
  for half in ('encoder', 'decoder'):
    lists[f'{half}_block_out_channels'] = getattr(config, f'{half}_block_out_channels')
  problems = [
    f'{name} is {value!r} (supported: one for each of {levels} levels)'
    for name, value in lists.items()
    if len(value) != levels
  ]
  problems += [
    f'{name} is {value!r} (supported: as wide at each level)'
    for name, value in lists.items()
    if name.endswith('channels') and len(set(value)) > 1
  ]
  refuse(fields, TINY_VAE, 'autoencoder', problems)


def text_encoder(fields: Mapping[str, Any]) -> None:
  """Whether the text encoder of this config.json is one that `CLIPTextModel` computes.

  Raises:
    UserError: lists every field that asks for something else.
  """
  refuse(fields, TEXT, 'text encoder')
