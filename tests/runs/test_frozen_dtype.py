"""Frozen weights in the dtype that the networks compute in: the same numbers, half the bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from cdd.models import casts, components, functional
from cdd.models.blocks import Upsample2D
from cdd.pretrained import diffusers, families
from cdd.runs import export, planning
from cdd.runs.experiment import experiment
from cdd.training import sharding

BFLOAT16 = np.dtype(jnp.bfloat16)
FIELDS = dict(unet=tiny.UNET, vae=tiny.VAE, text_encoder_2=tiny.TEXT)


@pytest.fixture
def config(prior):
  config = tiny.load('depth.py:tiny', prior)
  config.model.dtype, config.evaluation = 'bfloat16', None
  config.trainable = (('adapter[.].*', 'train'), ('.*', 'freeze'))
  return config


def kinds(tree) -> set:
  return {leaf.dtype for leaf in tree.values()}


@pytest.mark.parametrize('component', FIELDS)
def test_the_layers_that_cast_what_they_hold_are_those_of_the_table(component):
  config = families.parse(component, FIELDS[component])
  module = nnx.eval_shape(lambda: components.make(component, config, dtype=BFLOAT16))
  modules = {'.'.join(map(str, path)): part for path, part in nnx.iter_modules(module)}
  layers = {path for path, part in modules.items() if isinstance(part, nnx.Linear | nnx.Conv)}
  first = {f'{path}.conv.kernel' for path, p in modules.items() if isinstance(p, Upsample2D)}
  shapes = functional.bind(module)[1]
  expected = {path for path in shapes.keys() - first if path.rpartition('.')[0] in layers}
  params = {f'{component}.{path}': np.zeros(1, np.float32) for path in shapes}
  held = casts.held(params, {component: config}, BFLOAT16)
  assert {path for path in shapes if held[f'{component}.{path}'].dtype == BFLOAT16} == expected


def test_an_autoencoder_that_is_upcast_stays_in_float32():
  params = {'vae.conv.kernel': np.zeros(1, np.float32)}
  for upcast, dtype in ((True, np.float32), (False, np.float16)):
    vae = families.parse('vae', dict(tiny.VAE, force_upcast=upcast))
    assert kinds(casts.held(params, dict(vae=vae), np.float16)) == {np.dtype(dtype)}


def steps(run) -> list:
  """The metrics of two updates, and what they made of the parameters."""
  state, batches = run.initial(), iter(run.batches)
  metrics = []
  for _ in range(2):
    state, found = run.step(state, next(batches))
    metrics.append(jax.tree.map(float, found))
  run.batches.close()
  return [metrics, jax.tree.map(np.asarray, state.params)]


def test_a_step_computes_the_same_numbers_from_weights_that_are_cast_once(
  config, monkeypatch, tmp_path
):
  run = experiment(config, tmp_path / 'cast')
  assert {BFLOAT16, np.dtype(np.float32)} == kinds(run.frozen)
  assert kinds(run.initial().params) == {np.dtype(np.float32)}
  got, bytes_held = steps(run), sum(leaf.nbytes for leaf in run.frozen.values())
  monkeypatch.setattr(casts, 'held', lambda params, configs, dtype: params)
  run = experiment(config, tmp_path / 'whole')
  assert kinds(run.frozen) == {np.dtype(np.float32)}
  assert sum(leaf.nbytes for leaf in run.frozen.values()) > 1.4 * bytes_held
  jax.tree.map(np.testing.assert_array_equal, got, steps(run))


def test_the_planner_counts_the_weights_as_a_run_holds_them(config, tmp_path):
  run = experiment(config, tmp_path / 'run')
  run.batches.close()
  prior = planning.prior(config.prior, None)
  frozen = planning.training(config, prior, tiny.SIZE, jax.devices()[:1]).arguments[
    'frozen weights'
  ]
  same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), frozen, run.frozen)
  assert all(same.values())


def test_a_frozen_part_of_a_prior_is_exported_as_it_was_read(config, tmp_path):
  config.model.adapter = dict(name='none')
  config.method = dict(name='finetune')
  config.trainable = (('unet[.]conv_in[.].*', 'train'), ('.*', 'freeze'))
  run = experiment(config, tmp_path / 'run')
  run.batches.close()
  assert BFLOAT16 in kinds(run.prior.params)
  export.export(run, config, sharding.readable(run.initial().params, run.mesh), tmp_path / 'new')
  read, new = (diffusers.load(folder).params for folder in (config.prior.path, tmp_path / 'new'))
  jax.tree.map(np.testing.assert_array_equal, read, new)
