"""Owns the networks and inputs of the benchmarks, the same numbers in jax and in torch."""

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
from cdd.models import functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS
from cdd.models.networks import Networks
from cdd.models.unet import UNet2DConditionModel, UNetConfig
from cdd.pretrained import names

CONFIG = UNetConfig(
  block_out_channels=(64, 128, 192),
  down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
  up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
  layers_per_block=1,
  cross_attention_dim=128,
  attention_head_dim=4,
  norm_num_groups=16,
)
SIDE, FACTOR, WORDS = 16, 8, 77
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
    fields = _known(diffusers.ControlNetModel, dict(CONFIG._asdict(), sample_size=SIDE))
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
    at_0 = torch.zeros(len(latents), dtype=torch.int64)
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


def theirs(adapter: str) -> Theirs:
  """The reference, the U-Net frozen; one U-Net's weights for every adapter."""
  torch.set_num_threads(THREADS)
  torch.manual_seed(0)
  fields = _known(diffusers.UNet2DConditionModel, dict(CONFIG._asdict(), sample_size=SIDE))
  unet = diffusers.UNet2DConditionModel(**fields)
  module = THEIR_ADAPTERS[adapter](unet)
  last = torch.channels_last
  return Theirs(unet.requires_grad_(False).to(memory_format=last), module.to(memory_format=last))


def _known(kind, fields: dict) -> dict:
  known = inspect.signature(kind.__init__).parameters
  return {name: value for name, value in fields.items() if name in known}


def ours(adapter: str, reference: Theirs) -> tuple[Networks, Params, Params]:
  """(networks, the adapter's parameters, the U-Net's), of the weights of the reference."""
  kind = ADAPTERS[adapter]
  make_adapter = lambda: kind(CONFIG, rngs=nnx.Rngs(1))
  make = lambda: Adapted(UNet2DConditionModel(CONFIG, rngs=nnx.Rngs(0)), make_adapter())
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
    channels=CONFIG.in_channels,
    reads=nnx.eval_shape(make_adapter).reads,
  )
  return networks, *jax.tree.map(jnp.asarray, (train, frozen))


def _convert(module: torch.nn.Module, shapes: Params, prefix: str) -> Params:
  tensors = {key: leaf.detach().numpy() for key, leaf in module.state_dict().items()}
  return trees.prefixed(names.convert(tensors, trees.select(shapes, prefix), prefix), prefix)


def inputs(batch: int) -> Inputs:
  rng = np.random.default_rng(batch)
  return Inputs(
    latents=rng.normal(size=(batch, SIDE, SIDE, CONFIG.in_channels)).astype(np.float32),
    image=rng.uniform(size=(batch, SIDE * FACTOR, SIDE * FACTOR, 3)).astype(np.float32),
    text=rng.normal(size=(batch, WORDS, CONFIG.cross_attention_dim)).astype(np.float32),
  )


def nchw(array) -> torch.Tensor:
  """An NHWC array as a torch tensor [b, c, h, w], channels last in memory."""
  return torch.tensor(np.asarray(array)).permute(0, 3, 1, 2)


def in_torch(batch: Given) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
  """(latents, the condition's image, hidden states)."""
  return (
    nchw(batch.x),
    nchw(batch.c.arrays['condition']),
    torch.tensor(np.asarray(batch.c.text.states)),
  )
