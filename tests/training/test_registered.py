"""Every entry of the registries of training against its contract."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding

from cdd.core.registry import bind
from cdd.training import sharding
from cdd.training.optimizer import OPTIMIZERS
from cdd.training.sharding import MODES
from cdd.training.targets import TARGETS

SETTINGS = dict(ema=dict(decay=0.9), periodic=dict(every=3))
PARAMS = {'unet.a.kernel': jnp.ones((3, 4)), 'adapter.mu': jnp.ones(())}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_an_optimiser_makes_an_update_of_every_parameter(name):
  spec = dict(name=name, learning_rate=0.1)
  optimizer = bind(OPTIMIZERS, spec, 'optimizer')(steps=10)
  assert isinstance(optimizer, optax.GradientTransformation)
  parameters = inspect.signature(OPTIMIZERS[name]).parameters.values()
  assert inspect.getdoc(OPTIMIZERS[name].func)
  assert {p.kind for p in parameters} == {inspect.Parameter.KEYWORD_ONLY}

  def update(params):
    return optimizer.update(params, optimizer.init(params), params)[0]

  shapes = jax.eval_shape(update, PARAMS)
  assert {path: leaf.shape for path, leaf in shapes.items()} == {
    path: leaf.shape for path, leaf in PARAMS.items()
  }


@pytest.mark.parametrize('name', TARGETS)
def test_a_target_follows_every_parameter_or_keeps_none(name):
  follow = bind(TARGETS, dict(name=name, **SETTINGS[name]), 'target')
  out = follow(PARAMS, jax.tree.map(lambda leaf: leaf + 1, PARAMS), jnp.int32(2))
  assert out.keys() in (PARAMS.keys(), set())
  assert all(out[path].shape == PARAMS[path].shape for path in out)


@pytest.mark.parametrize('name', MODES)
def test_a_mode_of_sharding_places_an_array_of_any_shape(name):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  for shape in ((), (7,), (64, 512)):
    place = MODES[name]('unet.conv_in.kernel', shape, mesh)
    assert isinstance(place, NamedSharding) and place.shard_shape(shape) == shape
