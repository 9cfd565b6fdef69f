"""Owns what each component of a diffusers folder is on disk: files, classes and fields."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cdd.models import components
from cdd.pretrained import supported


class Component(NamedTuple):
  """A component of a diffusers folder.

  Attributes:
    stem: its weight file without the suffix.
    library, name: its class in model_index.json and in its config.json.
    check: raises UserError for fields of a config.json that our class does not follow.
    older: patterns of keys in older files, and what they are today.
    extra: config -> the fields of a new config.json that the reference needs and ours does not.
  """

  stem: str
  library: str
  name: str
  check: Callable[[Mapping[str, Any]], None]
  older: tuple[tuple[str, str], ...]
  extra: Callable[[Any], dict[str, Any]]


def _of_text(name: str) -> Component:
  def extra(config):
    return dict(
      model_type='clip_text_model',
      architectures=(name,),
      bos_token_id=config.eos_token_id - 1,
      pad_token_id=config.eos_token_id,
    )

  # transformers 5 writes CLIPTextModel without the prefix that the hub's files have.
  older = ((r'^(embeddings|encoder|final_layer_norm)\.', r'text_model.\1.'),)
  return Component('model', 'transformers', name, supported.text_encoder, older, extra)


COMPONENTS = dict(
  unet=Component(
    'diffusion_pytorch_model',
    'diffusers',
    'UNet2DConditionModel',
    supported.unet,
    (),
    lambda config: dict(act_fn='silu'),
  ),
  vae=Component(
    'diffusion_pytorch_model',
    'diffusers',
    'AutoencoderKL',
    supported.vae,
    tuple(
      (rf'(mid_block\.attentions\.0)\.{old}\.', rf'\1.{new}.')
      for old, new in dict(query='to_q', key='to_k', value='to_v', proj_attn='to_out.0').items()
    ),
    lambda config: dict(
      act_fn='silu',
      down_block_types=('DownEncoderBlock2D',) * len(config.block_out_channels),
      up_block_types=('UpDecoderBlock2D',) * len(config.block_out_channels),
    ),
  ),
  text_encoder=_of_text('CLIPTextModel'),
  text_encoder_2=_of_text('CLIPTextModelWithProjection'),
)
# Further classes of a component.
OTHERS = dict(
  vae=(
    Component(
      'diffusion_pytorch_model',
      'diffusers',
      'AutoencoderTiny',
      supported.tiny_vae,
      (),
      lambda config: dict(act_fn='relu', upsample_fn='nearest', upsampling_scaling_factor=2),
    ),
  ),
)
OURS = ('patch',)  # Fields that diffusers does not know.
TOKENIZERS = ('tokenizer', 'tokenizer_2')
# The pipeline of a U-Net by the number of channels that it reads beside z.
PIPELINES = {0: '', 4: 'InstructPix2Pix', 5: 'Inpaint'}


def kinds(component: str) -> dict[str, Component]:
  """The classes that a component may be of, by name; the usual one comes first."""
  return {kind.name: kind for kind in (COMPONENTS[component], *OTHERS.get(component, ()))}


def kind_of(component: str, config) -> Component:
  """The class whose config is of this type."""
  of_type = {
    components.of_class(component, name).config: kind for name, kind in kinds(component).items()
  }
  return of_type[type(config)]


def parse(component: str, fields: Mapping[str, Any]):
  """Our config from the fields of a config.json, of the class that they name.

  Raises:
    UserError: a field asks for what our network does not do.
  """
  name = fields.get('_class_name')
  kinds(component).get(name, COMPONENTS[component]).check(fields)
  kind = components.of_class(component, name).config

  def frozen(value):
    return tuple(map(frozen, value)) if isinstance(value, list) else value

  return kind(**{name: frozen(fields[name]) for name in kind._fields if name in fields})


def written(component: str, config, read: Mapping[str, Any], dtype) -> dict[str, Any]:
  """The fields of a config.json: those that were read, and what is new or has changed since.

  Args:
    dtype: of the weights beside them; None: several, and the field is left out.
  """
  if read:
    was = parse(component, read)._asdict()
    changed = {name: value for name, value in config._asdict().items() if value != was[name]}
    fields = {**read, **changed}
    for name in {'dtype', 'torch_dtype'} & read.keys():
      if dtype is None:
        del fields[name]
      else:
        fields[name] = np.dtype(dtype).name
    return fields
  entry = kind_of(component, config)
  fields = dict(config._asdict(), _class_name=entry.name, **entry.extra(config))
  defaults = config._field_defaults

  def unsaid(name, value):
    """Whether a field says nothing: it is None by default, or ours alone and at its default."""
    return name in defaults and value == defaults[name] and (value is None or name in OURS)

  return {name: value for name, value in fields.items() if not unsaid(name, value)}
