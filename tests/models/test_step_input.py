"""The step as an input of the U-Net, beside diffusers' `timestep_cond`."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_peers as peers
from diffusers import LatentConsistencyModelPipeline

from cdd.core.errors import UserError
from cdd.models import functional
from cdd.models.assemble import given_step
from cdd.models.time import step_sinusoid
from cdd.models.unet import UNet2DConditionModel, UNetConfig

FIELDS = dict(peers.FIELDS, up_block_types=peers.UP, time_cond_proj_dim=6)
STEPS = np.array([250, 0])


def embedded(steps, channels):
  """As diffusers embeds a guidance scale of step / 1000."""
  make = LatentConsistencyModelPipeline.get_guidance_scale_embedding
  return make(None, torch.tensor(steps) / 1000, embedding_dim=channels)


def test_the_embedding_of_a_step_is_that_of_diffusers_and_zeros_without_one():
  ours = np.asarray(step_sinusoid(jnp.array([1000, 125, 0]), 8))
  np.testing.assert_allclose(ours[:2], embedded([1000.0, 125.0], 8), atol=1e-5)
  assert (ours[2] == 0).all()


def test_a_network_that_is_given_its_step_equals_diffusers():
  theirs = peers.shaken(peers.torch_unet(**FIELDS))
  apply, shapes = functional.abstract(
    lambda: UNet2DConditionModel(UNetConfig(**FIELDS), rngs=functional.Keys(0))
  )
  params = peers.tree_of(theirs, shapes)
  condition = embedded([250.0, 0.0], 6) * torch.tensor([[1.0], [0.0]])
  expected = peers.torch_predict(theirs, timestep_cond=condition)
  call = lambda step: apply(params, '__call__', peers.Z, jnp.asarray(peers.INDEX), peers.TEXT, step)
  peers.close(call(jnp.asarray(STEPS)), expected, 1e-5)
  without = peers.torch_predict(theirs, timestep_cond=torch.zeros(2, 6))
  peers.close(call(None), without, 1e-5)
  assert (expected - without)[0].abs().max() > 1e-3  # The step matters.


def test_at_first_a_step_changes_nothing():
  unet, params, new = given_step(peers.CONFIG, {}, 16)
  assert unet.time_cond_proj_dim == 16 and list(new) == list(params)
  make = lambda: UNet2DConditionModel(unet, rngs=functional.Keys(0))
  apply, params = functional.bind(make())
  assert params['time_embedding.cond_proj.kernel'].shape == next(iter(new.values())).shape
  call = lambda step: apply(params, '__call__', peers.Z, jnp.asarray(peers.INDEX), peers.TEXT, step)
  assert np.array_equal(call(jnp.asarray(STEPS)), call(None))


def test_another_width_is_refused():
  with pytest.raises(UserError, match='in 6 channels, not in 16'):
    given_step(UNetConfig(**FIELDS), {}, 16)
