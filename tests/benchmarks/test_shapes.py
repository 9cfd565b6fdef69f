"""How shapes of a prior are compared: at the same hidden share of a picture, after decoding."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import shapes
from cdd.data.scenes import Scenes
from cdd.diffusion import schedules
from cdd.sampling import load
from configs import pretrain


def test_small_pictures_are_compared_at_their_own_times_and_large_ones_at_twice_the_noise():
  small = schedules.from_diffusers(pretrain.SCHEDULER)
  assert shapes.alike(small, 64) == {t: t for t in shapes.TIMES}
  longer = schedules.from_diffusers(dict(pretrain.SCHEDULER, beta_end=pretrain.LARGE['beta_end']))
  noise = lambda schedule, t: float(schedule.sigmas[t] / schedule.alphas[t])
  for t, other in shapes.alike(longer, 128).items():
    assert noise(longer, other) == pytest.approx(2 * noise(small, t), rel=0.02)


def test_blocks_are_averaged_down_to_the_common_size():
  large = jnp.arange(128 * 128 * 3.0).reshape(1, 128, 128, 3)
  small = np.asarray(shapes.smaller(large))
  assert small.shape == (1, 64, 64, 3)
  np.testing.assert_allclose(small[0, 1, 2], large[0, 2:4, 4:6].mean((0, 1)), rtol=1e-6)


def test_without_noise_the_error_is_that_of_the_autoencoder(prior, monkeypatch):
  monkeypatch.setattr(shapes, 'BATCH', 2)
  monkeypatch.setattr(shapes, 'TIMES', (0, 1000))
  model = load(str(prior))
  examples = [Scenes(size=64)[index] for index in range(2)]
  pixels, seen = shapes.errors(model._replace(size=(64, 64)), examples)
  images = np.stack([example['image'] for example in examples]).astype(np.float32)
  latents = model.networks.encode(model.params, images)
  through = np.clip(model.networks.decode(model.params, latents), 0, 1)
  assert pixels[0] == pytest.approx(float(np.mean((through - images) ** 2)), rel=1e-4)
  assert pixels.keys() == seen.keys() == {0, 1000}


def test_every_candidate_is_a_config_whose_latents_fit():
  for shape in pretrain.SHAPES:
    config = pretrain.get_config(f'shape_{shape}')
    patch = config.prior.replace.vae.patch
    assert config.prior.new.unet.in_channels == 4 * patch**2
    assert config.prior.new.unet.sample_size * 4 * patch == config.data.held_out.sources[0]['size']
