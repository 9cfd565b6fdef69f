import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from cdd.models import blocks

X = np.concatenate([np.linspace(-100, 100, 20_001), [0.0, 1e-30, -1e30, 1e30]])
EPS = np.finfo(np.float32).eps


def test_sigmoid_is_that_of_scipy_within_two_units_in_the_last_place_of_one():
  ours = jax.jit(blocks.sigmoid)(X.astype(np.float32))
  assert ours.dtype == jnp.float32
  np.testing.assert_allclose(ours, expit(X), rtol=0, atol=2 * EPS)
  middle = np.abs(X) < 80  # Where float32 holds the value itself.
  np.testing.assert_allclose(ours[middle], expit(X[middle]), rtol=3e-5)


def test_silu_and_its_gradient_have_their_closed_forms():
  x = X[np.abs(X) <= 100]
  s = expit(x)
  values = jax.jit(blocks.silu)(x.astype(np.float32))
  slopes = jax.jit(jax.vmap(jax.grad(blocks.silu)))(x.astype(np.float32))
  np.testing.assert_allclose(values, x * s, rtol=4 * EPS, atol=1e-6)
  np.testing.assert_allclose(slopes, s * (1 + x * (1 - s)), rtol=4 * EPS, atol=1e-5)


def test_silu_keeps_the_kind_of_its_input_and_what_is_no_number():
  assert blocks.silu(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
  assert np.isnan(blocks.silu(jnp.float32(np.nan)))
