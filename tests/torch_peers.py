"""Adapters and U-Nets by the reference library, tiny, and ours with the same weights."""

import functools
import inspect
import json

import diffusers as reference
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from cdd.core import trees
from cdd.core.types import Condition, Text
from cdd.models import functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS
from cdd.models.time import Time
from cdd.models.unet import UNet2DConditionModel, UNetConfig
from cdd.pretrained import names

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
WEIGHTS = 'diffusion_pytorch_model.safetensors'  # Of a component of diffusers.
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
SMALL = UNetConfig(
  block_out_channels=(8, 16),
  down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
  up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
  layers_per_block=1,
  cross_attention_dim=12,
  attention_head_dim=2,
  norm_num_groups=4,
)
HINTS = dict(conditioning_embedding_out_channels=(4, 8, 8))
Z = RNG.normal(size=(2, 8, 8, 4)).astype(np.float32)
INDEX = np.array([10, 700])
TEXT = Text(RNG.normal(size=(2, 5, 12)).astype(np.float32))
PIXELS = RNG.uniform(size=(2, 32, 32, 3)).astype(np.float32)  # Four pixels to a latent.
LATENTS = RNG.normal(size=(2, 8, 8, 4)).astype(np.float32)
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


def seen(image, text=TEXT):
  """A condition of one picture, or of its latents."""
  return Condition(dict(condition=image), text)


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


def torch_vae():
  torch.manual_seed(1)
  return reference.AutoencoderKL(
    block_out_channels=(4, 8),
    down_block_types=('DownEncoderBlock2D',) * 2,
    up_block_types=('UpDecoderBlock2D',) * 2,
    layers_per_block=1,
    norm_num_groups=2,
    sample_size=16,
  )


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
  return np.asarray(apply(params, 'with_hints', z, c, hints, Time(jnp.asarray(INDEX))))


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
