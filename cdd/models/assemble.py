"""Owns how frozen networks and an adapter become the networks of a run."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.types import Array, Params
from cdd.diffusion import schedules
from cdd.models import casts, components, functional
from cdd.models.adapted import Adapted
from cdd.models.adapters import ADAPTERS, concat
from cdd.models.adapters.adapter import Spec, has_strength, padded
from cdd.models.networks import Networks
from cdd.models.remat import rematerialized
from cdd.models.unet import UNetConfig


def assemble(
  configs: Mapping[str, Any],
  params: Params,
  scheduler: Mapping[str, Any],
  adapter: Spec | None,
  loaded: Params | None = None,
  *,
  dtype=jnp.float32,
  remat: bool = False,
  saved: Sequence[str] = (),
  step_channels: int | None = None,
) -> tuple[Networks, Params]:
  """The networks of a pretrained model with an adapter, and the parameters that come with it.

  Args:
    configs: component -> its config.
    params: the pretrained parameters.
    scheduler: the fields of scheduler_config.json.
    adapter: None where there is no U-Net.
    loaded: the adapter's weights; freshly initialised if None.
    dtype: what the networks compute in.
    remat: whether the backward pass computes the U-Nets' layers anew.
    saved: what of them is kept all the same (`remat.SAVED`).
    step_channels: sinusoids of the step that the U-Net is given; None: what its config says.

  Returns:
    The networks, and the parameters that are not the pretrained ones: 'adapter.*' and what
    replaces some of 'unet.*'.
  """
  configs, added, added_step, apply, reads = dict(configs), {}, {}, {}, {}
  strength = adapter is not None and has_strength(ADAPTERS[adapter.name])
  if step_channels:
    configs['unet'], params, added_step = given_step(configs['unet'], params, step_channels)
  if adapter is not None:
    make, configs['unet'], added = with_adapter(adapter, loaded, configs['unet'], params, dtype)
    module = nnx.eval_shape(lambda: rematerialized(make(), saved) if remat else make())
    check_channels(configs['unet'], configs['vae'].channels, adapter)
    apply['unet'], reads = functional.bind(module)[0], module.adapter.reads
    added |= added_step
  vae = configs['vae']
  for component in configs.keys() - apply.keys():
    of_component = dict(dtype=casts.computes_in(configs[component], dtype))
    make = partial(components.make, component, configs[component], **of_component)
    apply[component] = functional.abstract(make)[0]
  networks = Networks(
    adapted=apply.get('unet'),
    vae=apply['vae'],
    text_encoder=apply.get('text_encoder'),
    text_encoder_2=apply.get('text_encoder_2'),
    schedule=schedules.from_diffusers(scheduler),
    prediction=scheduler.get('prediction_type', 'epsilon'),
    scale=vae.scaling_factor,
    shift=vae.shift_factor or 0.0,
    factor=vae.factor,
    channels=vae.channels,
    reads=reads,
    has_strength=strength,
  )
  return networks, added


def check_channels(unet: UNetConfig, latents: int, adapter: Spec) -> None:
  """Refuses a U-Net that reads or predicts other channels than those of the latents.

  Raises:
    UserError: names both, and what a U-Net of such channels may be.
  """
  masked = bool(adapter.settings.get('masked'))
  reads = concat.inputs(latents, masked) if adapter.name == 'concat' else latents
  if (unet.in_channels, unet.out_channels) != (reads, latents):
    kinds = {
      2 * latents: "a condition beside z (the adapter 'concat')",
      2 * latents + 1: 'a mask and a condition',
    }
    kind = kinds.get(unet.in_channels)
    beside = f', as one that reads {kind} does' if kind else ''
    raise UserError(
      f'The U-Net reads {unet.in_channels} channels and predicts {unet.out_channels}{beside}; with '
      f'the adapter {adapter.name!r} and latents of {latents} channels it should read {reads} and '
      f'predict {latents}.'
    )


def given_step(
  unet: UNetConfig, params: Params, channels: int
) -> tuple[UNetConfig, Params, Params]:
  """A U-Net that is given its step, through a projection of zeros where it has none yet.

  Returns:
    Its config, all parameters, and those of them that are new.

  Raises:
    UserError: it has a projection of another width.
  """
  path, width = 'unet.time_embedding.cond_proj.kernel', unet.time_cond_proj_dim
  if width:
    if width != channels:
      raise UserError(f'This U-Net is given its step in {width} channels, not in {channels}.')
    return unet, params, {}
  new = {path: np.zeros((channels, unet.block_out_channels[0]), np.float32)}
  return unet._replace(time_cond_proj_dim=channels), {**params, **new}, new


def with_adapter(
  adapter: Spec, loaded: Params | None, unet: UNetConfig, params: Params, dtype
) -> tuple[Callable[[], nnx.Module], UNetConfig, Params]:
  """A U-Net with its adapter.

  Args:
    unet, params: the config of the pretrained U-Net, and the pretrained parameters.

  Returns:
    A function that makes the module; the config of its U-Net, which may have become wider; and the
    parameters that are not the pretrained ones.
  """
  kind = ADAPTERS[adapter.name]

  def make():
    return kind(adapter.unet, dtype=dtype, rngs=functional.Keys(1), **adapter.settings)

  if not hasattr(kind, 'prepare'):
    added = trees.prefixed(loaded, 'adapter') if loaded else initial(kind, make, params)
  elif loaded:
    unet = adapter.unet._replace(time_cond_proj_dim=unet.time_cond_proj_dim)
    added = trees.prefixed(loaded, 'unet')
  else:
    unet, prepared = kind.prepare(unet, params, **adapter.settings)
    added = {path: leaf for path, leaf in prepared.items() if leaf is not params.get(path)}

  def module():
    return Adapted(components.make('unet', unet, dtype=dtype), make())

  return module, unet, added


def initial(kind: type, make: Callable[[], nnx.Module], params: Params) -> Params:
  """An adapter's first parameters: copies of the U-Net's encoder (§4.1), the rest as it is made."""
  copied = {}
  if kind.copies_unet_below is not None:
    start = len(kind.copies_unet_below) + bool(kind.copies_unet_below)
    shapes = functional.abstract(make)[1]
    twins = {path: 'unet.' + path[start:] for path in shapes}
    copied = {
      path: fitted(params[twin], shapes[path].shape)
      for path, twin in twins.items()
      if twin in params
    }

  def fresh():
    return {k: leaf for k, leaf in functional.bind(make())[1].items() if k not in copied}

  return trees.prefixed(copied | jax.tree.map(np.asarray, jax.jit(fresh)()), 'adapter')


def fitted(leaf: Array, shape: tuple[int, ...]) -> Array:
  """A parameter of the U-Net as the copy has it, which may read more channels."""
  return leaf if leaf.shape == shape else padded(leaf, shape[2])
