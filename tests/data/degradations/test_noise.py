"""Noise by its distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import torch_degradation as reference
from cdd.data.degradations import noise

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
GREY = np.full((3, 64, 64), 0.5, np.float32)


@jax.jit
def gaussian(key, image, sigma, grey):
  return noise.gaussian(key, image, sigma=sigma, grey=grey)


@jax.jit
def poisson(key, image, size, scale, grey):
  return noise.poisson(key, image, size, scale=scale, grey=grey)


@pytest.mark.parametrize('grey', [False, True])
def test_gaussian_noise_has_its_deviation_and_its_colours(grey):
  out = np.asarray(gaussian(jax.random.key(0), GREY, 20.0, grey)) - 0.5
  pattern = (out[0] if grey else out).ravel() * 255 / 20
  assert stats.kstest(pattern, 'norm').pvalue > 1e-3
  alike = np.corrcoef(out.reshape(3, -1))[0, 1]
  assert alike == pytest.approx(1) if grey else abs(alike) < 0.07


def levels(count):
  """An image of so many levels, each as often."""
  values = np.linspace(0, 255, count).round() / 255
  return np.resize(values, (3, 64, 64)).astype(np.float32)


@pytest.mark.parametrize(('count', 'power'), [(1, 0), (2, 1), (3, 2), (64, 6), (65, 7), (256, 8)])
def test_white_is_as_many_photons_as_there_are_levels_in_the_image(count, power):
  image = np.round(levels(count) * 255).astype(np.int32)
  image[:, 40:] = RNG.integers(0, 256, size=image[:, 40:].shape)
  inside = np.arange(64)[None, :, None] < 40
  whites = 2 ** np.ceil(np.log2(len(np.unique(image[:, :40]))))
  assert int(noise.white(jnp.asarray(image), inside)) == power == np.log2(whites)


@pytest.mark.parametrize('power', [0, 3, 8])
def test_photons_have_the_distribution_of_poisson(power):
  bits = jax.random.bits(jax.random.key(power), (6, 20_000))
  for level, row in zip((0, 1, 40, 128, 200, 255), np.asarray(bits), strict=True):
    mean = level * 2**power / 255
    counts = np.asarray(noise.drawn(row, jnp.full(row.shape, level), jnp.int32(power)))
    top = int(stats.poisson.ppf(0.9999, mean))
    found = np.bincount(np.minimum(counts, top).astype(int), minlength=top + 1)
    expected = stats.poisson.pmf(np.arange(top), mean)
    expected = np.append(expected, 1 - expected.sum()) * len(counts)
    full = expected > 5  # Rarer counts are put together.
    pooled = [np.append(row[full], row[~full].sum()) for row in (found, expected)]
    if pooled[1][-1] == 0:
      assert pooled[0][-1] == 0
      pooled = [row[:-1] for row in pooled]
    assert stats.chisquare(*pooled).pvalue > 1e-3 if len(pooled[0]) > 1 else not counts.any()


def test_the_table_of_photons_is_that_of_scipy_to_its_last_bits():
  power, level = np.array([0, 4, 8, 8]), np.array([255, 100, 17, 255])
  mean = level * 2.0**power / 255
  expected = stats.poisson.cdf(np.arange(noise.LARGEST), mean[:, None])
  found = noise.distribution()[power, level] / 2.0**32
  np.testing.assert_allclose(found, expected, atol=3 / 2**32)


@pytest.mark.parametrize('grey', [False, True])
def test_poisson_noise_has_the_moments_of_pytorch(grey):
  image = levels(200)
  scale = 0.7
  keys = jax.random.split(jax.random.key(1), 64)
  ours = np.stack([poisson(key, image, (64, 64), scale, grey) for key in keys]) - image
  torch.manual_seed(0)
  many = torch.tensor(image).expand(64, 3, 64, 64)
  theirs = reference.poisson(many, torch.full((64,), scale), torch.full((64,), grey)) - many
  theirs = theirs.numpy()
  assert ours.std() == pytest.approx(theirs.std(), rel=0.01)
  shades = np.round(image * 255).astype(int)
  for level in (26, 128, 230):
    near = np.abs(shades - level) <= 6
    assert ours[:, near].std() == pytest.approx(theirs[:, near].std(), rel=0.05)
    assert abs(ours[:, near].mean()) < 5 * ours[:, near].std() / (64 * near.sum() / 3) ** 0.5


def test_grey_noise_is_one_pattern_and_colours_are_not():
  image = np.stack([np.full((32, 32), value, np.float32) for value in (0.4, 0.5, 0.6)])
  key, size = jax.random.key(2), (32, 32)
  for make in (
    lambda grey: gaussian(key, image, 10.0, grey),
    lambda grey: poisson(key, image, size, 0.1, grey),
  ):
    grey, colour = (np.asarray(make(flag)) - image for flag in (True, False))
    np.testing.assert_allclose(grey[0], grey[2], atol=1e-6)
    assert np.abs(colour[0] - colour[2]).max() > 0.01


def test_noise_stays_in_the_range_of_images():
  for value in (0.0, 1.0):
    image = np.full((3, 16, 16), value, np.float32)
    for out in (
      gaussian(jax.random.key(0), image, 50.0, False),
      poisson(jax.random.key(0), image, (16, 16), 3.0, False),
    ):
      assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
