"""The strength of an adapter and the steps in which it acts, beside the reference's pipelines."""

import diffusers as reference
import jax.numpy as jnp
import numpy as np
import pytest
from torch_pipelines import beside, noise, parts, pictures, same

from cdd import sampling
from cdd.core.errors import UserError
from cdd.core.types import Condition
from cdd.models.strength import Strength, within


def test_a_controlnet_acts_as_strongly_and_in_the_steps_that_it_does_in_the_pipeline(tmp_path):
  made, latents, images = parts(tmp_path, 'sd'), noise(), pictures()
  theirs, draw = beside('controlnet', made, tmp_path, latents)
  for scale, start, end in ((0.4, 0.0, 1.0), (1.0, 0.3, 1.0), (1.7, 0.25, 0.8)):
    acts = dict(control_guidance_start=start, control_guidance_end=end)
    expected = theirs(images, controlnet_conditioning_scale=scale, **acts)
    ours = draw(images, adapter_strength=scale, adapter_start=start, adapter_end=end)
    same(ours, expected, draw(images))


def test_a_t2i_adapter_acts_as_strongly_as_in_the_pipeline(tmp_path):
  made, latents, images = parts(tmp_path, 'sd'), noise(), pictures()
  theirs, draw = beside('adapter', made, tmp_path, latents)
  expected = theirs(images, adapter_conditioning_scale=0.3)
  same(draw(images, adapter_strength=0.3), expected, draw(images))


def test_the_steps_are_those_of_the_pipelines_own_rule():
  times = (1000, 800, 600, 400, 200, 0)
  for start, end in ((0.0, 1.0), (0.2, 0.6), (0.21, 1.0), (0.0, 0.59), (0.4, 0.6)):
    keeps = [not (i / 5 < start or (i + 1) / 5 > end) for i in range(5)]
    strength = within(times, scale=1.5, start=start, end=end)
    at = [float(strength.at(t)) for t in times[:-1]]
    assert at == [1.5 * keep for keep in keeps], (start, end)
  with pytest.raises(
    UserError, match='adapter_start=0.3 to adapter_end=0.5 there is none of the 5'
  ):
    within(times, scale=1.0, start=0.3, end=0.5)


def test_mu_is_multiplied_by_the_strength(depth, condition):
  images = condition(size=(48, 32))
  settings = dict(steps=3, sampler='ddim', guidance=2.0, seeds=4)
  for tile in (None, 32):
    draw = lambda model, tile=tile, **given: model('a', images, tile=tile, **settings, **given)
    scaled = {
      path: leaf * (0.5 if path == 'adapter.mu' else 1) for path, leaf in depth.params.items()
    }
    half = draw(depth, adapter_strength=0.5)
    np.testing.assert_allclose(half, draw(depth._replace(params=scaled)), atol=1e-5)
    assert np.abs(half - draw(depth)).max() > 1e-3
    none = draw(depth, adapter_strength=0.0)
    other = depth('a', 1 - images, tile=tile, adapter_strength=0.0, **settings)
    np.testing.assert_array_equal(none, other)  # The condition is not seen.


def test_at_0_mu_mixing_is_the_unet_alone_exactly(plain, depth, condition):
  raw = dict(depth.words(['a'], (32, 32)), condition=condition())
  c = depth.networks.condition(depth.params, raw)
  z, t = (jnp.asarray(noise()[:1]), jnp.full((1, 1, 1, 1), 500))
  denoiser = depth.networks.denoiser(depth.params, c, strength=Strength(0.0, 1000, 1))
  alone = plain.networks.denoiser(depth.params, Condition({}, c.text))
  np.testing.assert_array_equal(denoiser(z, t, None), alone(z, t, None))
  later = denoiser._replace(strength=Strength(1.0, 499, 1))  # It does not act yet.
  np.testing.assert_array_equal(later(z, t, None), alone(z, t, None))
  assert np.abs(denoiser._replace(strength=None)(z, t, None) - alone(z, t, None)).max() > 1e-3


def test_another_strength_and_other_steps_compile_nothing(depth, condition):
  draw = lambda *part: depth(
    'a', condition(), steps=4, **dict(zip(sampling.settings.ADAPTER, part, strict=True))
  )
  draw(0.5, 0.0, 1.0)
  programs = depth.draw._cache_size()
  images = [draw(0.7, 0.0, 1.0), draw(0.7, 0.25, 1.0), draw(0.7, 0.0, 0.5)]
  assert depth.draw._cache_size() == programs
  assert all(np.abs(image - images[0]).max() > 1e-4 for image in images[1:])


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    (dict(adapter_strength=float('nan')), 'adapter_strength is nan; it must be a number'),
    (dict(adapter_strength=-1), 'adapter_strength is -1; it must be 0 or more'),
    (dict(adapter_start=0.5, adapter_end=0.5), 'adapter_start is 0.5 and adapter_end 0.5; they'),
    (dict(adapter_end=1.5), '0 <= adapter_start < adapter_end <= 1'),
    (dict(adapter_start=0.1, adapter_end=0.2, steps=2), 'there is none of the 2 steps'),
  ],
)
def test_a_part_that_is_none_is_refused(given, said, depth, condition):
  with pytest.raises(UserError, match=said):
    depth('a', condition(), **given)


def test_a_model_without_an_adapter_beside_it_has_no_strength(plain, tmp_path):
  with pytest.raises(UserError, match='are for an adapter beside the U-Net; this model has none'):
    plain('a', adapter_strength=0.5)
  made = parts(tmp_path, 'sd', channels=8)
  reference.StableDiffusionInstructPix2PixPipeline(**made).save_pretrained(tmp_path / 'pipeline')
  edits = sampling.load(tmp_path / 'pipeline')
  with pytest.raises(UserError, match="this model's U-Net reads the condition itself"):
    edits('a', pictures()[0], adapter_end=0.5)
