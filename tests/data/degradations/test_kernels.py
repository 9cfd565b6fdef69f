"""Kernels against NumPy and SciPy in float64, and the frequencies with which they are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from benchmarks import torch_degradation as reference
from cdd.data.degradations import kernels
from cdd.data.degradations.recipes import REAL_ESRGAN, STABLE_SR

bivariate, sinc = jax.jit(kernels.bivariate), jax.jit(kernels.sinc)
RANGES = dict(sigma=(0.2, 3.0), generalized=(0.5, 4.0), plateau=(1.0, 2.0))


def in_float64(numbers):
  size, *shape, plateau = numbers
  return reference.bivariate(int(size), *map(np.float64, shape), plateau)


def test_the_families_are_those_of_numpy():
  rng, worst = np.random.default_rng(0), 0.0
  for plateau in (False, True):
    for _ in range(40):
      numbers = kernels.Bivariate(
        size=rng.choice(kernels.SIZES),
        sigma_x=np.float32(rng.uniform(0.2, 3)),
        sigma_y=np.float32(rng.uniform(0.2, 3)),
        angle=np.float32(rng.uniform(-np.pi, np.pi)),
        beta=np.float32(rng.choice([1.0, rng.uniform(0.5, 4)])),
        plateau=plateau,
      )
      gap = np.abs(np.asarray(bivariate(numbers)) - in_float64(numbers)).max()
      worst = max(worst, gap)
  print(f'greatest difference {worst:.1e}')
  assert worst < 1e-6


@pytest.mark.parametrize('size', kernels.SIZES)
def test_a_sinc_filter_is_that_of_scipy(size):
  for cutoff in (np.pi / 5, 1.0, 2.0, np.pi):
    ours = np.asarray(sinc(size, jnp.float32(cutoff)))
    np.testing.assert_allclose(ours, reference.sinc(size, cutoff), atol=1e-6)
    reach = (kernels.WIDTH - size) // 2
    assert ours.sum() == pytest.approx(1, abs=5e-6) and not ours[:reach].any()


def test_j1_is_that_of_scipy_up_to_the_corner_of_the_largest_filter():
  x = np.linspace(0, 10 * 2**0.5 * np.pi, 1000, dtype=np.float32)
  np.testing.assert_allclose(kernels.j1(jnp.asarray(x)), special.j1(x), atol=2e-6)


@pytest.fixture(scope='module')
def drawn():
  """4000 kernels' numbers, of random sizes."""

  def one(key):
    sizes, numbers = jax.random.split(key)
    size = kernels._size(jax.random.uniform(sizes))
    return kernels.draw_bivariate(numbers, size, **RANGES)

  out = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 4000))
  return jax.tree.map(np.asarray, out)


def fair(counts, shares):
  """Whether counts may be of these shares."""
  counts = np.asarray(counts)
  return stats.chisquare(counts, counts.sum() * np.asarray(shares)).pvalue > 1e-3


def test_families_and_sizes_are_drawn_as_often_as_published(drawn):
  turned, general = drawn.sigma_x != drawn.sigma_y, drawn.beta != 1
  gauss, general = ~drawn.plateau & ~general, ~drawn.plateau & general
  counts = [(kind & side).sum() for kind in (gauss, general) for side in (~turned, turned)]
  # Half of the plateaus of the published range have the exponent 1.
  counts += [(drawn.plateau & side).sum() for side in (~turned, turned)]
  assert fair(counts, [0.45, 0.25, 0.12, 0.03, 0.12, 0.03])
  assert [*kernels.FAMILIES.values()] == [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
  assert fair(np.unique(drawn.size, return_counts=True)[1], [1 / 8] * 8)
  assert drawn.size.min() == 7 and drawn.size.max() == 21


def test_numbers_of_kernels_are_uniform_in_their_ranges(drawn):
  uniform = lambda values, low, high: stats.kstest(values, 'uniform', (low, high - low)).pvalue
  turned = drawn.sigma_x != drawn.sigma_y
  assert uniform(drawn.sigma_x, 0.2, 3) > 1e-3
  assert uniform(drawn.sigma_y[turned], 0.2, 3) > 1e-3
  assert uniform(drawn.angle[turned], -np.pi, np.pi) > 1e-3
  assert not drawn.angle[~turned].any()
  beta = drawn.beta[~drawn.plateau & (drawn.beta != 1)]
  assert uniform(beta[beta < 1], 0.5, 1) > 1e-3 and uniform(beta[beta > 1], 1, 4) > 1e-3
  flat = drawn.beta[drawn.plateau]
  for betas, bound in ((beta, (beta < 1)), (flat, (flat == 1))):
    assert abs(bound.mean() - 0.5) < 4 * 0.5 / len(betas) ** 0.5


@pytest.mark.parametrize('share', [0.0, 0.1, 1.0])
def test_sinc_filters_are_drawn_as_often_as_asked(share):
  draw = jax.jit(jax.vmap(lambda key: kernels.draw(key, sinc_share=share, **RANGES)))
  out = np.asarray(draw(jax.random.split(jax.random.key(2), 2000)))
  np.testing.assert_allclose(out.sum((1, 2)), 1, atol=1e-5)
  # Only a sinc filter has negative weights; its cutoff of at least π / 5 makes some of them large.
  found = (out.min((1, 2)) < -1e-5).mean()
  assert abs(found - share) < 4 * (share * (1 - share) / 2000) ** 0.5 + 1e-9


def test_the_last_filter_is_a_sinc_or_of_no_effect():
  draw = jax.jit(jax.vmap(lambda key: kernels.draw_final(key, share=0.8)))
  out = np.asarray(draw(jax.random.split(jax.random.key(3), 2000)))
  pulses = (out == kernels.pulse()).all((1, 2))
  assert abs(pulses.mean() - 0.2) < 4 * 0.4 / 2000**0.5
  assert kernels.pulse().sum() == 1 and kernels.pulse()[10, 10] == 1


@pytest.mark.parametrize('recipe', [REAL_ESRGAN, STABLE_SR])
def test_every_kernel_of_the_presets_is_finite(recipe):
  for numbers in (recipe.first, recipe.second):
    ranges = {name: getattr(numbers, name) for name in RANGES}
    draw = jax.jit(jax.vmap(lambda key, r=ranges: kernels.draw(key, sinc_share=0.1, **r)))
    out = np.asarray(draw(jax.random.split(jax.random.key(4), 500)))
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out.sum((1, 2)), 1, atol=1e-5)
