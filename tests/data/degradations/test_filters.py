"""Filtering and sharpening against the same in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks import torch_degradation as reference
from cdd.data.degradations import filters
from cdd.data.degradations.sharpen import sharpened

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(size=(3, 40, 52)).astype(np.float32)


@pytest.mark.parametrize('size', [(40, 52), (31, 23), (12, 11)])
def test_an_image_that_fills_a_part_of_its_canvas_is_filtered_as_if_alone(size):
  kernel = RNG.normal(size=(21, 21)).astype(np.float32) / 21  # Correlation, not convolution.
  ours = jax.jit(filters.filter2d)(IMAGE, kernel, size)[:, : size[0], : size[1]]
  part = torch.tensor(IMAGE[None, :, : size[0], : size[1]])
  theirs = reference.filter2d(part, torch.tensor(kernel[None]))[0].numpy()
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize('width', [1, 5, 21, 51])
def test_the_form_for_tpus_is_that_of_other_platforms(width):
  kernel = RNG.normal(size=(width, width)).astype(np.float32) / width
  image = RNG.uniform(size=(3, 30 + width, 19 + width)).astype(np.float32)
  ours = jax.jit(filters.in_blocks)(image, kernel)
  assert ours.shape == (3, 31, 20)
  np.testing.assert_allclose(ours, filters.by_fourier(image, kernel), atol=1e-5)
  theirs = torch.nn.functional.conv2d(
    torch.tensor(image)[:, None], torch.tensor(kernel)[None, None]
  )
  np.testing.assert_allclose(ours, theirs[:, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_an_axis_is_mirrored_as_often_as_needed(count):
  values = np.arange(count)
  wide = values if count == 1 else np.pad(values, 20, mode='reflect')
  found = np.asarray(filters.mirrored(jnp.arange(-20, count + 20), count))
  np.testing.assert_array_equal(found, np.zeros(41) if count == 1 else wide)


def photograph():
  """Edges above the threshold of sharpening, and noise below it: [3, 80, 72]."""
  y, x = np.mgrid[:80, :72]
  edges = (x // 9 + y // 14) % 2 * 0.7 + 0.1 + 0.02 * RNG.normal(size=(3, 80, 72))
  return np.clip(edges, 0, 1).astype(np.float32)


def test_an_image_is_sharpened_as_by_one_filter_of_51_by_51():
  image = photograph()
  ours = np.asarray(jax.jit(sharpened)(image))
  theirs = reference.sharpened(torch.tensor(image)[None])[0].numpy()
  assert np.abs(ours - image).max() > 0.05
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_differs_little_from_its_blur_is_not_sharpened():
  smooth = np.broadcast_to(np.linspace(0.4, 0.6, 64, dtype=np.float32), (3, 64, 64))
  np.testing.assert_allclose(jax.jit(sharpened)(smooth), smooth, atol=1e-6)
