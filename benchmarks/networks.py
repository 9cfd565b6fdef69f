"""Owns the networks and inputs of the benchmarks, the same numbers in jax and in torch.

Both run on the GPU where there is one.
"""

import copy
import inspect
import os
import re
from pathlib import Path
from typing import NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from cdd.core import trees
from cdd.core.types import Condition, Params, Text
from cdd.diffusion import schedules
from cdd.models import casts, functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS
from cdd.models.networks import Networks
from cdd.models.unet import UNet2DConditionModel, UNetConfig
from cdd.pretrained import names
from configs.stable_diffusion import FAMILIES


class Size(NamedTuple):
  """What is compared: a U-Net, the side of its latents, and the dtype that both compute in."""

  unet: UNetConfig
  side: int
  dtype: str


def of_family(name: str) -> Size:
  """Stable Diffusion at 512 px."""
  fields = FAMILIES[name]['unet']
  known = {field: fields[field] for field in UNetConfig._fields if field in fields}
  return Size(UNetConfig(**known), 64, 'bfloat16')


SMALL = UNetConfig(
  block_out_channels=(64, 128, 192),
  down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
  up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
  layers_per_block=1,
  cross_attention_dim=128,
  attention_head_dim=4,
  norm_num_groups=16,
)
SIZES = dict(
  small=lambda: Size(SMALL, 16, 'float32'),
  small_bfloat16=lambda: Size(SMALL, 16, 'bfloat16'),
  sd15=lambda: of_family('sd15'),
  sd21=lambda: of_family('sd21'),
)
FACTOR, WORDS = 8, 77
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
SCHEDULE = schedules.scaled_linear()
# What is measured is what the page has users run in PyTorch.
PAGE = Path(__file__).parents[1] / 'docs' / 'mu_mix.md'
RECIPE = {}
exec(re.search(r'```python\n(.*?)```', PAGE.read_text(), re.S)[1], RECIPE)
THREADS = len(os.sched_getaffinity(0))  # As many as XLA takes; `taskset -c 0` makes it one.


class ControlNet(torch.nn.Module):
  """diffusers' own; its zero convolutions are moved, as after some training."""

  space = 'pixel'

  def __init__(self, unet: diffusers.UNet2DConditionModel):
    super().__init__()
    fields = _known(diffusers.ControlNetModel, dict(unet.config))
    self.model = diffusers.ControlNetModel(**fields)
    with torch.no_grad():
      for parameter in self.model.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))

  def hints(self, image, text):
    """What of `with_hints` needs neither z nor t; diffusers' own reads the picture every time."""
    return image

  def with_hints(self, unet, image, z, text, index):
    """The prediction [b, c, h, w]."""
    skips, mid = self.model(z, index, text, image, return_dict=False)
    residuals = dict(down_block_additional_residuals=skips, mid_block_additional_residual=mid)
    return unet(z, index, text, **residuals, return_dict=False)[0]


class MuMix(torch.nn.Module):
  """Eq. 10 by the recipe of docs/mu_mix.md, of diffusers' modules."""

  space = 'latent'

  def __init__(self, unet: diffusers.UNet2DConditionModel):
    super().__init__()
    self.encoder = copy.deepcopy(unet)
    self.encoder.up_blocks = torch.nn.ModuleList()
    self.encoder.conv_norm_out = self.encoder.conv_out = None
    self.mu = torch.nn.Parameter(torch.tensor(0.3))

  def hints(self, latents, text):
    """h_η(c), once per image."""
    at_0 = torch.zeros(len(latents), dtype=torch.int64, device=latents.device)
    _, skips, mid = RECIPE['encode'](self.encoder, latents, at_0, text)
    return [*skips, mid]

  def with_hints(self, unet, hints, z, text, index):
    """The prediction [b, c, h, w]."""
    emb, skips, mid = RECIPE['encode'](unet, z, index, text)
    mixed = [a + self.mu * (b - a) for a, b in zip([*skips, mid], hints, strict=True)]
    return RECIPE['decode'](unet, emb, mixed[:-1], mixed[-1], text)


THEIR_ADAPTERS = dict(controlnet=ControlNet, mu_mix=MuMix)


class Theirs(NamedTuple):
  """PyTorch's modules, in training mode (they hold no dropout), channels last."""

  unet: diffusers.UNet2DConditionModel
  adapter: torch.nn.Module

  def __call__(self, z, condition, text, index):
    """The prediction [b, c, h, w]."""
    hints = self.adapter.hints(condition, text)
    return self.adapter.with_hints(self.unet, hints, z, text, index)


class Inputs(NamedTuple):
  """NHWC float32 arrays: latents, condition pixels in [0, 1], hidden states of the text."""

  latents: np.ndarray
  image: np.ndarray
  text: np.ndarray

  def given(self, space: str) -> 'Given':
    """`space`: 'pixel' or 'latent', what an adapter reads as its condition."""
    image = dict(pixel=self.image, latent=self.latents)[space]
    arrays = dict(condition=jnp.asarray(image))
    return Given(jnp.asarray(self.latents), Condition(arrays, Text(jnp.asarray(self.text))))


class Given(NamedTuple):
  """What an update is given: latents [b, h, w, c] and their conditions."""

  x: jax.Array
  c: Condition


def theirs(adapter: str, size: Size) -> Theirs:
  """The reference in float32 on the CPU, the U-Net frozen; it is the same for every adapter."""
  torch.set_num_threads(THREADS)
  torch.manual_seed(0)
  fields = dict(size.unet._asdict(), sample_size=size.side)
  unet = diffusers.UNet2DConditionModel(**_known(diffusers.UNet2DConditionModel, fields))
  module = THEIR_ADAPTERS[adapter](unet)
  return Theirs(unet.requires_grad_(False), module)


def placed(reference: Theirs, size: Size, *, trained: bool) -> Theirs:
  """The same where and as it is run: channels last, what is not trained in the dtype."""
  kind, last = getattr(torch, size.dtype), dict(memory_format=torch.channels_last)
  held = torch.float32 if trained else kind
  unet, adapter = reference
  return Theirs(unet.to(DEVICE, kind, **last), adapter.to(DEVICE, held, **last))


def autocast(size: Size):
  """In which PyTorch computes in the dtype."""
  kind = getattr(torch, size.dtype)
  return torch.autocast(DEVICE, kind, enabled=kind != torch.float32)


def place() -> str:
  """What both run on."""
  return torch.cuda.get_device_name() if DEVICE == 'cuda' else f'{THREADS} threads'


def wait() -> None:
  """Until the GPU has done what PyTorch asked for."""
  if DEVICE == 'cuda':
    torch.cuda.synchronize()


def print_peaks() -> None:
  """Prints the most memory that each of both had on the GPU, if there is one."""
  if DEVICE == 'cuda':
    ours = jax.local_devices()[0].memory_stats()['peak_bytes_in_use']
    theirs = torch.cuda.max_memory_allocated()
    print(f'at most {ours / 2**30:.2f} GiB ours, {theirs / 2**30:.2f} GiB diffusers', flush=True)


def _known(kind, fields: dict) -> dict:
  known = inspect.signature(kind.__init__).parameters
  return {name: value for name, value in fields.items() if name in known}


def ours(adapter: str, reference: Theirs, size: Size) -> tuple[Networks, Params, Params]:
  """(networks, the adapter's parameters, the U-Net's), of the weights of the reference."""
  kind, unet, shared = ADAPTERS[adapter], size.unet, dict(dtype=jnp.dtype(size.dtype))
  make_adapter = lambda: kind(unet, rngs=nnx.Rngs(1), **shared)
  make = lambda: Adapted(UNet2DConditionModel(unet, rngs=nnx.Rngs(0), **shared), make_adapter())
  apply, shapes = functional.abstract(make)
  frozen = _convert(reference.unet, shapes, 'unet')
  # diffusers' ControlNet is inside a module of ours; the parts of μ-mixing are the module itself.
  module = getattr(reference.adapter, 'model', reference.adapter)
  train = _convert(module, shapes, 'adapter')
  networks = Networks(
    adapted=apply,
    vae=None,
    text_encoder=None,
    text_encoder_2=None,
    schedule=SCHEDULE,
    prediction='v_prediction',
    scale=1.0,
    shift=0.0,
    factor=FACTOR,
    channels=unet.in_channels,
    reads=nnx.eval_shape(make_adapter).reads,
  )
  frozen = casts.held(frozen, {}, size.dtype)
  return networks, *jax.tree.map(jnp.asarray, (train, frozen))


def _convert(module: torch.nn.Module, shapes: Params, prefix: str) -> Params:
  tensors = {key: leaf.detach().numpy() for key, leaf in module.state_dict().items()}
  return trees.prefixed(names.convert(tensors, trees.select(shapes, prefix), prefix), prefix)


def inputs(batch: int, size: Size) -> Inputs:
  side, unet = size.side, size.unet
  rng = np.random.default_rng(batch)
  return Inputs(
    latents=rng.normal(size=(batch, side, side, unet.in_channels)).astype(np.float32),
    image=rng.uniform(size=(batch, side * FACTOR, side * FACTOR, 3)).astype(np.float32),
    text=rng.normal(size=(batch, WORDS, unet.cross_attention_dim)).astype(np.float32),
  )


def nchw(array) -> torch.Tensor:
  """An NHWC array as a torch tensor [b, c, h, w], channels last in memory."""
  return torch.tensor(np.asarray(array)).permute(0, 3, 1, 2).to(DEVICE)


def in_torch(batch: Given) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
  """(latents, the condition's image, hidden states)."""
  return (
    nchw(batch.x),
    nchw(batch.c.arrays['condition']),
    torch.tensor(np.asarray(batch.c.text.states)).to(DEVICE),
  )
