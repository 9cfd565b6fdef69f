import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdd.models.adapters.controlnet import HintNetwork
from cdd.models.ops import rows
from cdd.models.ops.activations import silu
from cdd.runs import counting


@pytest.fixture(scope='module')
def network():
  network = HintNetwork(3, 5, (4, 8, 8), dtype=jnp.float32, rngs=nnx.Rngs(0))
  for place, layer in enumerate(layers(network)):
    random = jax.random.split(jax.random.key(place))
    layer.kernel[...] = jax.random.normal(random[0], layer.kernel.shape) / 4
    layer.bias[...] = jax.random.normal(random[1], layer.bias.shape)
  return network


def layers(network):
  return [network.conv_in, *network.blocks, network.conv_out]


def in_turn(network):
  def run(x):
    out = network.conv_in(x)
    for layer in layers(network)[1:]:
      out = layer(silu(out))
    return out

  return run


@pytest.mark.parametrize(('group', 'width'), [(2, 6), (4, 12), (4, 4), (8, 16)])
def test_groups_of_pixels_are_the_same_convolutions_and_so_are_their_gradients(
  network, group, width
):
  x = jax.random.normal(jax.random.key(9), (2, 8, width, 3))
  arrays = [x, *map(rows.weights, layers(network))]
  strides = tuple(layer.strides for layer in layers(network))

  def made(function, **settings):
    def loss(*arrays):
      out = function(*arrays, strides=strides, **settings)
      return (out**2).sum(), out.ravel()

    return jax.value_and_grad(loss, argnums=tuple(range(len(arrays))), has_aux=True)(*arrays)

  ours, plain = map(jax.tree.leaves, (made(rows.by_groups, group=group), made(rows.one_by_one)))
  for a, b in zip(ours, plain, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_elsewhere_the_layers_are_called_in_turn(network):
  x = jax.random.normal(jax.random.key(9), (2, 8, 12, 3))
  call = lambda x: network(x)
  np.testing.assert_array_equal(jax.jit(call)(x), jax.jit(in_turn(network))(x))


@pytest.mark.parametrize(('width', 'channels'), [(16, 12), (18, 6), (15, 3)])
def test_on_a_tpu_as_many_pixels_are_a_group_as_the_strides_and_the_width_allow(
  network, width, channels
):
  x = jnp.ones((1, 8, width, 3))
  text = jax.jit(lambda x: network(x)).trace(x).lower(lowering_platforms=('tpu',)).as_text()
  assert f'tensor<1x8x{3 * width // channels}x{channels}xf32>' in text


def test_zeros_of_a_kernel_are_not_work(network):
  def work(function):
    return counting.flops(jax.make_jaxpr(function)(jnp.ones((1, 8, 16, 3))).jaxpr)

  slope = lambda run: jax.grad(lambda x: run(x).sum())
  assert work(network) == work(in_turn(network)) > 0
  assert work(slope(network)) == work(slope(in_turn(network)))
