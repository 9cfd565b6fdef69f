"""What eight devices compute and where it lies; one process with eight makes all the answers."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cdd import plan
from cdd.core.errors import UserError
from cdd.runs import planning
from cdd.training import sharding

EIGHT = """
import json
import jax, jax.numpy as jnp, numpy as np
from cdd.diffusion import distances, predictors, schedules, times
from cdd.methods import conditional
from cdd.training import sharding, state as states, step as steps
from cdd.training.optimizer import adamw
from cdd.training.targets import ema
from cdd.core.types import Batch, Nets

rng = np.random.default_rng(0)
schedule = schedules.scaled_linear(zero_terminal_snr=True)
train = dict(
  wide=rng.normal(size=(4, 4096)).astype(np.float32) / 2,
  back=rng.normal(size=(4096, 4)).astype(np.float32) / 64,
  bias=np.zeros(4096, np.float32),
  mu=np.zeros((), np.float32),
)
host = dict(
  x=rng.normal(size=(16, 2, 2, 4)).astype(np.float32),
  c=rng.normal(size=(16, 2, 2, 4)).astype(np.float32),
)


def network(tree, c):
  def call(z, t, s):
    hidden = (z + tree['mu'] * c) @ tree['wide'] + tree['bias']
    return jnp.tanh(hidden) @ tree['back'] + t / 1000
  return call


def objective(params, target, frozen, batch, key, step):
  return conditional.loss(
    Nets(network(params, batch['c']), network(target, batch['c'])), Batch(batch['x']), key, step,
    schedule=schedule, num_steps=1000, sample_t=times.shared, predictor=predictors.prev,
    d_eps=distances.squared_l2, d_x=distances.squared_l2, dt=20,
  )


def run(mesh, accumulate, rules=sharding.FSDP):
  optimizer = adamw(steps=10, learning_rate=1e-2)
  follow = lambda target, params, step: ema(target, params, step, decay=0.9)
  create = lambda params: states.create(params, optimizer)
  places = sharding.of_state(jax.eval_shape(create, train), mesh, rules)
  state = jax.jit(create, out_shardings=places)(train)
  update = steps.make(objective, optimizer, follow, accumulate=accumulate)
  update = jax.jit(update, donate_argnums=0, out_shardings=(places, None))
  batch = sharding.put_batch(host, mesh)
  for _ in range(3):
    state, _ = update(state, {}, batch, jax.random.key(0))
  return state, batch


eight = sharding.make_mesh(data=4, fsdp=2)
(one, _), (many, batch) = (
  run(mesh, 1) for mesh in (sharding.make_mesh(devices=jax.devices()[:1]), eight)
)
cube = sharding.make_mesh(data=2, fsdp=2, tensor=2)
pairs = (('wide', 'columns'), ('back', 'rows'), ('.*', 'fsdp'))
cut, of_cube = run(cube, 1, pairs)
summed, _ = run(eight, 2)
zero1, _ = run(eight, 1, [('.*', 'zero1')])
lone, _ = run(sharding.make_mesh(devices=jax.devices()[:1]), 2)
draw = lambda key, x: times.shared(key, x.shape[0], 1, 1000) + 0 * x[:, :1, :1, :1].astype(int)
t = jax.jit(draw, out_shardings=sharding.over_batch(eight))(jax.random.key(0), batch['x'])
moments = [
  (path[-1].key, leaf.sharding == many.params[path[-1].key].sharding)
  for path, leaf in jax.tree_util.tree_flatten_with_path(many.opt)[0]
  if getattr(path[-1], 'key', None) in train
]
gap = lambda a, b: {k: float(np.abs(np.asarray(a[k]) - np.asarray(b[k])).max()) for k in a}
print(json.dumps(dict(
  devices=len(batch['x'].sharding.device_set),
  rows=[shard.data.shape[0] for shard in batch['x'].addressable_shards],
  t=[sorted(set(np.asarray(shard.data).ravel().tolist())) for shard in t.addressable_shards],
  gap=gap(one.params, many.params),
  gap_target=gap(one.target, many.target),
  gap_tensor=gap(one.params, cut.params),
  rows_tensor=[shard.data.shape[0] for shard in of_cube['x'].addressable_shards],
  examples=sharding.examples(cube, 16),
  shards_tensor={k: leaf.addressable_shards[0].data.shape for k, leaf in cut.params.items()},
  gap_accumulated=gap(lone.params, summed.params),
  gap_zero1=gap(one.params, zero1.params),
  shards_zero1={k: leaf.addressable_shards[0].data.shape for k, leaf in zero1.params.items()},
  frozen_zero1={
    k: place.is_fully_replicated
    for k, place in sharding.of_params(train, eight, [('.*', 'zero1')]).items()
  },
  moments_zero1={
    path[-1].key: leaf.addressable_shards[0].data.shape
    for path, leaf in jax.tree_util.tree_flatten_with_path(zero1.opt)[0]
    if getattr(path[-1], 'key', None) in train
  },
  moved=gap(one.params, train),
  shards={k: leaf.addressable_shards[0].data.shape for k, leaf in many.params.items()},
  moments=moments,
)))
"""


@pytest.fixture(scope='module')
def answers():
  flags = dict(XLA_FLAGS='--xla_force_host_platform_device_count=8', JAX_PLATFORMS='cpu')
  done = subprocess.run(
    [sys.executable, '-c', EIGHT], env={**os.environ, **flags}, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout)


def test_a_batch_is_cut_evenly_over_all_devices(answers):
  assert answers['devices'] == 8 and answers['rows'] == [2] * 8


def test_a_shared_t_is_one_t_across_eight_devices(answers):
  assert len(answers['t']) == 8
  assert len(answers['t'][0]) == 1 and answers['t'] == answers['t'][:1] * 8


@pytest.mark.parametrize('gap', ['gap', 'gap_target', 'gap_tensor', 'gap_zero1', 'gap_accumulated'])
def test_eight_devices_reach_the_parameters_of_one(answers, gap):
  # Adam divides by the gradient's own size, so what reassociation changes is relative to the way.
  for name, way in answers['moved'].items():
    assert way > 1e-2 and answers[gap][name] < 5e-3 * way, name


def test_large_parameters_are_cut_over_fsdp_and_small_ones_are_whole(answers):
  assert answers['shards'] == dict(wide=[4, 2048], back=[2048, 4], bias=[4096], mu=[])


def test_zero1_cuts_what_is_trained_over_all_devices(answers):
  assert answers['shards_zero1'] == dict(wide=[4, 512], back=[512, 4], bias=[4096], mu=[])
  assert answers['moments_zero1'] == answers['shards_zero1']


def test_zero1_leaves_what_is_frozen_whole(answers):
  assert answers['frozen_zero1'] == dict(wide=True, back=True, bias=True, mu=True)


def test_chips_of_the_tensor_axis_share_examples_and_cut_pairs_of_layers(answers):
  assert answers['rows_tensor'] == [4] * 8 and answers['examples'] == list(range(16))
  assert answers['shards_tensor'] == dict(wide=[2, 2048], back=[2048, 2], bias=[4096], mu=[])


def test_the_moments_of_the_optimiser_lie_as_their_parameters(answers):
  names = [name for name, _ in answers['moments']]
  assert sorted(names) == sorted(2 * ['wide', 'back', 'bias', 'mu'])
  assert all(same for _, same in answers['moments'])


def mesh(**sizes):
  """A mesh of one device that says it has more: enough to ask where a parameter would lie."""
  device = jax.devices()[0]
  return SimpleNamespace(shape=dict(data=1, fsdp=1, tensor=1) | sizes, device=device)


@pytest.fixture
def places(monkeypatch):
  """The axes that a parameter is cut over, in place of a sharding of devices that are not there."""

  def named(mesh, spec):
    return SimpleNamespace(spec=tuple(spec), is_fully_replicated=not any(spec))

  monkeypatch.setattr(sharding, 'NamedSharding', named)


@pytest.mark.parametrize('family', ['sd15', 'sd21', 'sdxl'])
@pytest.mark.parametrize('mode', ['fsdp', 'tensor'])
def test_of_stable_diffusion_almost_nothing_lies_whole_on_every_chip(family, mode, places):
  params = planning.prior(ConfigDict(dict(path=None)), plan.families()[family]).params
  for size in (2, 16, 64):
    assert not sharding.whole(params, mesh(fsdp=size), (('.*', mode),))
  # 256 divides neither 320 nor 640 nor 1920 channels, and that is said.
  assert 'resnets.0.conv1.kernel 42.2 MiB' in sharding.whole(params, mesh(fsdp=256))
  pairs = sharding.of_params(params, mesh(fsdp=4, tensor=4), (('.*', 'tensor'),))
  first = 'unet.mid_block.attentions.0.transformer_blocks.0.attn1'
  assert pairs[f'{first}.to_q.kernel'].spec == ('fsdp', 'tensor')
  assert pairs[f'{first}.to_out.0.kernel'].spec == ('tensor', 'fsdp')
  assert pairs['unet.mid_block.resnets.0.conv1.kernel'].spec == (None, None, 'fsdp', None)
  cut = [path for path, place in pairs.items() if 'tensor' in place.spec]
  assert any(path.startswith('text_encoder.') and path.endswith('fc1.kernel') for path in cut)


def test_parameters_that_every_chip_holds_whole_are_named(places):
  params = dict(odd=np.zeros((333, 7), np.float32), even=np.zeros((1024, 64), np.float32))
  assert not sharding.whole(params, mesh(data=8))  # Nothing is shared.
  zero1 = (('.*', 'zero1'),)
  assert sharding.whole(params, mesh(fsdp=8), zero1, trained=params).startswith('3.4%')
  assert sharding.whole(params, mesh(fsdp=8), zero1).startswith('100.0%')
  said = sharding.whole(params, mesh(fsdp=8))
  assert said.startswith('3.4% of the parameters lie whole on every chip') and 'odd 0.0 MiB' in said
  assert 'even' not in said
  said = sharding.whole(params, mesh(fsdp=8), (('.*', 'replicate'),))
  assert said.startswith('100.0%') and said.index('even 0.2 MiB') < said.index('odd')


def test_only_data_is_cut_over_slices_of_tpus():
  slices = [SimpleNamespace(slice_index=n // 4, id=n) for n in range(8)]
  with pytest.raises(UserError, match='data=1, fsdp=8, tensor=1 does not fit 2 slices'):
    sharding.make_mesh(data=1, fsdp=8, devices=slices)


@pytest.mark.parametrize(
  ('sizes', 'said'),
  [
    (dict(data=-1, fsdp=3, tensor=1), 'does not divide 8'),
    (dict(data=-1, fsdp=-1, tensor=1), 'does not divide 8'),
    (dict(data=2, fsdp=2, tensor=1), 'does not fill 8'),
    (dict(data=0, fsdp=8, tensor=1), 'does not divide 8'),
  ],
)
def test_a_mesh_that_is_none_is_refused(sizes, said):
  with pytest.raises(UserError, match=said):
    sharding.sized(sizes, 8)
