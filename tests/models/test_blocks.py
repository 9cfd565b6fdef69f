import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import expit

from cdd.models import blocks
from cdd.models.ops import activations, upsampling

X = np.concatenate([np.linspace(-100, 100, 20_001), [0.0, 1e-30, -1e30, 1e30]])
EPS = np.finfo(np.float32).eps


def test_sigmoid_is_that_of_scipy_within_two_units_in_the_last_place_of_one():
  ours = jax.jit(activations.sigmoid)(X.astype(np.float32))
  assert ours.dtype == jnp.float32
  np.testing.assert_allclose(ours, expit(X), rtol=0, atol=2 * EPS)
  middle = np.abs(X) < 80  # Where float32 holds the value itself.
  np.testing.assert_allclose(ours[middle], expit(X[middle]), rtol=3e-5)


def test_silu_and_its_gradient_have_their_closed_forms():
  x = X[np.abs(X) <= 100]
  s = expit(x)
  values = jax.jit(activations.silu)(x.astype(np.float32))
  slopes = jax.jit(jax.vmap(jax.grad(activations.silu)))(x.astype(np.float32))
  np.testing.assert_allclose(values, x * s, rtol=4 * EPS, atol=1e-6)
  np.testing.assert_allclose(slopes, s * (1 + x * (1 - s)), rtol=4 * EPS, atol=1e-5)


def test_silu_keeps_the_kind_of_its_input_and_what_is_no_number():
  assert activations.silu(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
  assert np.isnan(activations.silu(jnp.float32(np.nan)))


@pytest.mark.parametrize('shape', [(2, 5, 7, 6), (1, 1, 1, 6)])
def test_the_four_phases_are_the_enlarged_pictures_convolution_and_so_are_their_gradients(shape):
  layer = blocks.Upsample2D(6, dtype=jnp.float32, rngs=nnx.Rngs(0))
  layer.conv.bias[...] = jnp.arange(6.0)
  x = jax.random.normal(jax.random.key(1), shape)
  reference = lambda layer, x: layer.conv(upsampling.enlarge(x))
  np.testing.assert_allclose(layer(x), reference(layer, x), rtol=0, atol=1e-5)
  loss = lambda run: lambda layer, x: (run(layer, x) ** 2).sum()
  slopes = nnx.grad(loss(lambda layer, x: layer(x)), argnums=(0, 1))(layer, x)
  expected = nnx.grad(loss(reference), argnums=(0, 1))(layer, x)
  for ours, theirs in zip(jax.tree.leaves(slopes), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_an_enlarged_picture_cut_to_an_odd_size_is_padded_after_the_cut():
  layer = blocks.Upsample2D(6, dtype=jnp.float32, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(1), (1, 4, 4, 6))
  expected = layer.conv(upsampling.enlarge(x)[:, :7, :])
  assert np.array_equal(layer(x, (7, 8)), expected)
  assert not np.allclose(layer(x)[:, :7], expected, atol=1e-3)


def test_an_upsampler_computes_in_its_own_kind():
  layer = blocks.Upsample2D(6, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(1), (1, 4, 4, 6))
  assert layer(x).dtype == jnp.bfloat16
  np.testing.assert_allclose(layer(x), layer.conv(upsampling.enlarge(x)), atol=0.05)


@pytest.mark.parametrize(('side', 'zeros'), [(3, False), (4, True)])
def test_on_a_tpu_pictures_of_many_positions_have_zeros_put_between_their_pixels(side, zeros):
  layer = blocks.Upsample2D(6, dtype=jnp.float32, rngs=nnx.Rngs(0))
  traced = jax.jit(lambda x: layer(x)).trace(jnp.ones((1, side, side, 6)))
  text = traced.lower(lowering_platforms=('tpu',)).as_text()
  assert ('lhs_dilate = [2, 2]' in text) == zeros and text.count('stablehlo.convolution') == 1


def test_the_three_ways_of_an_upsampler_are_one_convolution():
  x, kernel = (
    jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 3, 4, 6), (3, 3, 6, 5)])
  )
  for way in (upsampling.by_phases, upsampling.dilated):
    np.testing.assert_allclose(upsampling.directly(x, kernel), way(x, kernel), atol=1e-5)
