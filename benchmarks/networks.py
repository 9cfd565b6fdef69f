"""Owns the networks and inputs of the benchmarks, the same numbers in jax and in torch."""

import inspect
import os
from typing import NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from cdd import trees
from cdd.build import initial_adapter
from cdd.diffusion import schedules
from cdd.models import functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS
from cdd.models.networks import Networks
from cdd.models.pretrained import names
from cdd.models.unet import UNet2DConditionModel, UNetConfig
from cdd.types import Condition, Params, Text

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
THREADS = len(os.sched_getaffinity(0))  # As many as XLA takes; `taskset -c 0` makes it one.


class Theirs(NamedTuple):
  """diffusers' modules, in training mode (they hold no dropout), channels last."""

  unet: diffusers.UNet2DConditionModel
  control: diffusers.ControlNetModel

  def __call__(self, z, image, text, index):
    """The prediction [b, c, h, w]."""
    skips, mid = self.control(z, index, text, image, return_dict=False)
    return self.unet(
      z,
      index,
      text,
      down_block_additional_residuals=skips,
      mid_block_additional_residual=mid,
      return_dict=False,
    )[0]


class Inputs(NamedTuple):
  """NHWC float32 arrays: latents, condition pixels in [0, 1], hidden states of the text."""

  latents: np.ndarray
  image: np.ndarray
  text: np.ndarray

  def condition(self, space: str) -> Condition:
    """`space`: 'pixel' or 'latent', what an adapter wants."""
    image = dict(pixel=self.image, latent=self.latents)[space]
    return Condition(jnp.asarray(image), Text(jnp.asarray(self.text)))


def theirs() -> Theirs:
  """The reference; its zero convolutions are moved, as after some training."""
  torch.set_num_threads(THREADS)
  torch.manual_seed(0)
  fields = dict(CONFIG._asdict(), sample_size=SIDE)
  unet = diffusers.UNet2DConditionModel(**_known(diffusers.UNet2DConditionModel, fields))
  control = diffusers.ControlNetModel(**_known(diffusers.ControlNetModel, fields))
  with torch.no_grad():
    for parameter in control.parameters():
      parameter.add_(0.01 * torch.randn_like(parameter))
  last = torch.channels_last
  return Theirs(unet.to(memory_format=last), control.to(memory_format=last))


def _known(kind, fields: dict) -> dict:
  known = inspect.signature(kind.__init__).parameters
  return {name: value for name, value in fields.items() if name in known}


def ours(adapter: str, reference: Theirs) -> tuple[Networks, Params, Params]:
  """(networks, the adapter's parameters, the U-Net's), of the weights of the reference."""
  kind = ADAPTERS[adapter]
  plug = lambda: kind(CONFIG, rngs=nnx.Rngs(1))
  make = lambda: Adapted(UNet2DConditionModel(CONFIG, rngs=nnx.Rngs(0)), plug())
  apply, shapes = functional.abstract(make)
  frozen = _convert(reference.unet, shapes, 'unet')
  train = (
    _convert(reference.control, shapes, 'adapter')
    if adapter == 'controlnet'
    else initial_adapter(kind, plug, frozen)
  )
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
    condition_space=kind.condition_space,
    depends_on_z=kind is ADAPTERS['controlnet'],
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
