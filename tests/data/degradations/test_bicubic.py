"""The bicubic reduction and the enlargement of conditions against Pillow."""

import jax
import numpy as np
from PIL import Image

from cdd.data import SOURCES
from cdd.data.degradations import DEGRADATIONS
from cdd.data.degradations.bicubic import resampled

IMAGE = SOURCES['photos'](('image',), split='test', size=48)[0]['image']


def by_pillow(image, size):
  """In float32, each channel for itself."""
  channels = [Image.fromarray(channel) for channel in image.transpose(2, 0, 1)]
  out = [np.asarray(channel.resize(size[::-1], Image.Resampling.BICUBIC)) for channel in channels]
  return np.clip(np.stack(out, -1), 0, 1)


def test_a_reduction_is_that_of_pillow_to_the_whole_number():
  target, small = jax.jit(DEGRADATIONS['bicubic'](factor=4).on_device)(IMAGE, jax.random.key(0))
  np.testing.assert_array_equal(target, IMAGE)
  expected = by_pillow(IMAGE, (12, 12))
  assert np.abs(np.asarray(small) - expected).max() < 0.5001 / 255
  np.testing.assert_allclose(255 * small, np.round(255 * small), atol=1e-4)


def test_an_enlargement_is_that_of_pillow():
  small = by_pillow(IMAGE, (12, 16))
  ours = resampled(small, (48, 64))
  np.testing.assert_allclose(ours, by_pillow(small, (48, 64)), atol=1e-5)
