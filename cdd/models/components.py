"""Owns the networks of a text-to-image model by the names that diffusers gives them."""

from typing import NamedTuple

import numpy as np
from flax import nnx

from cdd.models import functional, text, unet, vae


class Component(NamedTuple):
  """A network's class and the class of its config."""

  module: type
  config: type


COMPONENTS = dict(
  unet=Component(unet.UNet2DConditionModel, unet.UNetConfig),
  vae=Component(vae.AutoencoderKL, vae.VAEConfig),
  text_encoder=Component(text.CLIPTextModel, text.TextConfig),
  text_encoder_2=Component(text.CLIPTextModelWithProjection, text.TextConfig),
)


def make(component: str, config, *, dtype=np.float32) -> nnx.Module:
  """A freshly initialised network that computes in `dtype`."""
  return COMPONENTS[component].module(config, dtype=dtype, rngs=functional.Keys(0))
