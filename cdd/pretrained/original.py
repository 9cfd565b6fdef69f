"""Owns the keys that ControlNet and T2I-Adapter were first published under, as renames."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cdd.models.unet import UNetConfig

# (pattern of the beginning of diffusers' key, match -> the original's beginning), first match wins.
Table = Sequence[tuple[str, Callable[[re.Match], str]]]
CONTROLNET = 'control_model.'  # A file of all of Stable Diffusion has the ControlNet below this.
RESNET = dict(
  norm1='in_layers.0',
  conv1='in_layers.2',
  time_emb_proj='emb_layers.1',
  norm2='out_layers.0',
  conv2='out_layers.3',
  conv_shortcut='skip_connection',
)


def controlnet(config: UNetConfig, *, hint_widths: Sequence[int] = (16, 32, 96, 256), **_) -> Table:
  """ControlNet's `cldm` layout, whose blocks are counted through all levels."""
  per_level = config.layers(0) + 1

  def block(m):
    return f'input_blocks.{int(m[1]) * per_level + int(m[2]) + 1}'

  resnet = r'resnets\.(\d+)\.(norm1|conv1|time_emb_proj|norm2|conv2|conv_shortcut)'
  hint = r'controlnet_cond_embedding\.'
  return (
    (r'time_embedding\.linear_([12])', lambda m: f'time_embed.{2 * int(m[1]) - 2}'),
    (r'add_embedding\.linear_([12])', lambda m: f'label_emb.0.{2 * int(m[1]) - 2}'),
    (r'conv_in', lambda m: 'input_blocks.0.0'),
    (rf'down_blocks\.(\d+)\.{resnet}', lambda m: f'{block(m)}.0.{RESNET[m[3]]}'),
    (r'down_blocks\.(\d+)\.attentions\.(\d+)', lambda m: f'{block(m)}.1'),
    (
      r'down_blocks\.(\d+)\.downsamplers\.0\.conv',
      lambda m: f'input_blocks.{(int(m[1]) + 1) * per_level}.0.op',
    ),
    (rf'mid_block\.{resnet}', lambda m: f'middle_block.{2 * int(m[1])}.{RESNET[m[2]]}'),
    (r'mid_block\.attentions\.0', lambda m: 'middle_block.1'),
    (rf'{hint}conv_in', lambda m: 'input_hint_block.0'),
    (rf'{hint}blocks\.(\d+)', lambda m: f'input_hint_block.{2 * int(m[1]) + 2}'),
    (rf'{hint}conv_out', lambda m: f'input_hint_block.{4 * len(hint_widths) - 2}'),
    (r'controlnet_down_blocks\.(\d+)', lambda m: f'zero_convs.{m[1]}.0'),
    (r'controlnet_mid_block', lambda m: 'middle_block_out.0'),
  )


def t2i_adapter(
  config: UNetConfig, *, kind: str = 'full_adapter', num_res_blocks: int | None = None, **_
) -> Table:
  """T2I-Adapter's layout: a full one counts its residual blocks through all levels."""
  del config
  if kind == 'light_adapter':
    return (
      (r'adapter\.body\.(\d+)\.resnets\.(\d+)', lambda m: f'body.{m[1]}.body.{m[2]}'),
      (r'adapter\.', lambda m: ''),
    )
  depth = num_res_blocks or 2
  return (
    (
      r'adapter\.body\.(\d+)\.resnets\.(\d+)',
      lambda m: f'body.{int(m[1]) * depth + int(m[2])}',
    ),
    (r'adapter\.body\.(\d+)\.in_conv', lambda m: f'body.{int(m[1]) * depth}.in_conv'),
    (r'adapter\.', lambda m: ''),
  )


LAYOUTS = dict(controlnet=controlnet, t2i_adapter=t2i_adapter)


def rename(table: Table, key: str) -> str:
  """Diffusers' key -> the original's."""
  for pattern, name in table:
    match = re.match(pattern, key)
    if match:
      return name(match) + key[match.end() :]
  return key


def renamed(table: Table, held: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
  """A file's tensors under diffusers' keys; a key that no layout knows keeps its name.

  Args:
    held: the tensors; those of the Stable Diffusion beside a ControlNet are left out.
    wanted: diffusers' keys. A file that has one of them is in diffusers' layout already.
  """
  wanted = set(wanted)
  if wanted & held.keys():
    return dict(held)
  prefix = CONTROLNET if any(key.startswith(CONTROLNET) for key in held) else ''
  names = {prefix + rename(table, key): key for key in wanted}
  return {names.get(key, key): held[key] for key in held if key.startswith(prefix)}
