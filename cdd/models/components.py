"""Owns the networks of a text-to-image model by the names that diffusers gives them."""

from typing import NamedTuple

import numpy as np
from flax import nnx

from cdd.models import functional, text, tiny_vae, unet, vae


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

# Further classes that a component may be of, by the names that diffusers gives them.
OTHERS = dict(AutoencoderTiny=Component(tiny_vae.AutoencoderTiny, tiny_vae.TinyConfig))


def of_class(component: str, name: str | None) -> Component:
  """The network of a component whose class has a name; None is the usual one."""
  return OTHERS.get(name, COMPONENTS[component])


def make(component: str, config, *, dtype=np.float32) -> nnx.Module:
  """A freshly initialised network that computes in `dtype`."""
  modules = {kind.config: kind.module for kind in (*OTHERS.values(), COMPONENTS[component])}
  return modules[type(config)](config, dtype=dtype, rngs=functional.Keys(0))
