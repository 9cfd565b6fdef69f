"""Guidance: which predictions are made, in one call, and how they are combined."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdd.core.types import Condition, Text
from cdd.diffusion import guidance
from cdd.models.guide import Guide

RNG = np.random.default_rng(0)


class Spy:
  """An adapted network of closed form, and the calls that it saw."""

  def __init__(self):
    self.calls = []

  def __call__(self, params, method, *args):
    if method == 'hints':
      (c,) = args
      self.calls.append((method, c.text.states.shape[0]))
      return c.arrays
    z, c, *_, time = args
    self.calls.append((method, z.shape[0]))
    image = sum(array.mean((1, 2, 3), keepdims=True) for array in c.arrays.values())
    text = c.text.states.mean((1, 2))[:, None, None, None]
    return z * (1 + text) + 10 * image + 0.001 * time.index[:, None, None, None]


@pytest.fixture
def spied(plain):
  spy = Spy()
  return plain.networks._replace(adapted=spy, prediction='v_prediction'), spy


TEXT, NEGATIVE = (Text(jnp.full((2, 3, 4), value)) for value in (0.5, -0.25))
Z = jnp.asarray(RNG.normal(size=(2, 4, 4, 4)), jnp.float32)
T = jnp.full((2, 1, 1, 1), 401)
IMAGE = dict(condition=jnp.full((2, 4, 4, 4), 0.3))


def closed(text, image=0.0):
  """What Spy predicts at Z, T."""
  return np.asarray(Z) * (1 + text) + 10 * image + 0.4


def test_guidance_leads_from_the_negative_prompt_to_the_prompt_in_one_call(spied):
  networks, spy = spied
  denoise = networks.denoiser({}, Condition({}, TEXT), guide=Guide(NEGATIVE, 3.0))
  expected = closed(-0.25) + 3 * (closed(0.5) - closed(-0.25))
  np.testing.assert_allclose(denoise(Z, T, None), expected, rtol=1e-5)
  denoise(Z, T, None)
  assert spy.calls == [('hints', 4), ('with_hints', 4), ('with_hints', 4)]


def test_no_guidance_costs_one_prediction(spied):
  networks, spy = spied
  denoise = networks.denoiser({}, Condition({}, TEXT))
  np.testing.assert_allclose(denoise(Z, T, None), closed(0.5), 1e-6)
  assert spy.calls == [('hints', 2), ('with_hints', 2)]


def test_instruct_pix2pix_has_a_scale_for_the_image_and_one_for_the_text(spied):
  networks, spy = spied
  c = Condition(IMAGE, TEXT)
  denoise = networks.denoiser({}, c, guide=Guide(NEGATIVE, 7.5, image_scale=1.5))
  nothing, image, both = closed(-0.25), closed(-0.25, 0.3), closed(0.5, 0.3)
  expected = nothing + 7.5 * (both - image) + 1.5 * (image - nothing)
  np.testing.assert_allclose(denoise(Z, T, None), expected, rtol=1e-5, atol=1e-5)
  assert spy.calls[-1] == ('with_hints', 6)


def test_the_condition_image_goes_to_both_halves(spied):
  networks, _ = spied
  c = Condition(IMAGE, TEXT)
  out = networks.denoiser({}, c, guide=Guide(NEGATIVE, 3.0))(Z, T, None)
  expected = closed(-0.25, 0.3) + 3 * (closed(0.5, 0.3) - closed(-0.25, 0.3))
  np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_rescaling_gives_the_deviation_of_the_conditional_prediction_back():
  from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion as theirs
  from torch import tensor

  guided, text = (RNG.normal(size=(2, 4, 4, 4)).astype(np.float32) for _ in range(2))
  ours = guidance.rescaled(guided, conditional=text, amount=0.7)
  expected = theirs.rescale_noise_cfg(tensor(guided), tensor(text), guidance_rescale=0.7)
  np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5)
  whole = guidance.rescaled(guided, conditional=text, amount=1.0)
  np.testing.assert_allclose(np.std(whole[0]), np.std(text[0]), rtol=1e-5)


def test_joined_parts_come_back_under_their_names():
  parts = {name: jnp.full((2, 3), index) for index, name in enumerate('abc')}
  back = guidance.split(guidance.concatenate(parts), tuple(parts))
  assert all(np.array_equal(back[name], parts[name]) for name in parts)
