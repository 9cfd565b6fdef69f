"""What a task leaves to the devices is done in steps, held-out batches, caches and shards."""

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from cdd.core import hosts
from cdd.data import cache
from cdd.data.degradations import DEGRADATIONS
from cdd.data.degradations.degradation import Degradation
from cdd.runs import loop, planning, prepare, streams
from cdd.runs.experiment import experiment
from cdd.training import sharding, writer


def speckled(*, factor: int) -> Degradation:
  """Every pixel of the target is darker, and the small image has noise of the key."""

  def degrade(image, key):
    small = image[::factor, ::factor]
    return 0.9 * image, 0.9 * small + 0.1 * jax.random.uniform(key, small.shape)

  return Degradation(on_device=degrade)


@pytest.fixture(scope='module', autouse=True)
def registered():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(DEGRADATIONS, 'speckled', speckled)
    yield


@pytest.fixture
def config(prior):
  config = tiny.load('super_resolution.py:tiny,method=finetune', prior)
  config.data.task.degradation.name = 'speckled'
  config.model.adapter = dict(name='concat')
  config.data.batch_size = 4
  config.evaluation = None
  return config


def trained(config, workdir):
  loop.run(config, workdir)
  losses = [row['loss'] for row in writer.read(workdir / 'log.jsonl') if 'loss' in row]
  return losses, load_file(workdir / 'export/trained.safetensors')


def test_a_step_finishes_its_batch_and_a_resumed_run_is_the_unbroken_one(
  config, tmp_path, monkeypatch
):
  losses, params = trained(config, tmp_path / 'whole')
  assert len(losses) == 2 and np.isfinite(losses).all()
  with monkeypatch.context() as patch:
    patch.setattr(hosts.Stop, 'reached', lambda self, step: step == 1)
    loop.run(config, tmp_path / 'broken')
  _, resumed = trained(config, tmp_path / 'broken')
  assert all(np.array_equal(resumed[path], array) for path, array in params.items())


def test_micro_batches_are_cut_from_the_finished_batch(config, tmp_path):
  config.accumulate = 2
  whole = experiment(config, tmp_path)
  drawn = next(whole.batches)
  finished = streams.finishing(streams.task_of(config).finish)(drawn)
  assert 'condition' not in drawn and 'draws' not in finished
  config.data.task.degradation = dict(name='simple')  # Whose step takes complete batches.
  plain, losses = experiment(config, tmp_path), []
  for run, batch in ((whole, drawn), (plain, finished)):
    _, metrics = run.step(run.initial(), sharding.put_batch(batch, run.mesh))
    losses.append(float(metrics['loss']))
    run.batches.close()
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_held_out_batches_are_complete(config):
  held_out = streams.held_out(config, lambda text: {})
  (batch,) = held_out(2, 2)
  assert isinstance(batch['condition'], np.ndarray) and 'draws' not in batch
  assert batch['condition'].shape == batch['image'].shape == (2, tiny.SIZE, tiny.SIZE, 3)
  task = streams.task_of(config)
  source = streams.SOURCES['photos'](task.needs, split='test', size=tiny.SIZE)
  np.testing.assert_allclose(batch['image'][1], 0.9 * source[1]['image'], atol=1e-6)
  again = held_out(2, 2)[0]
  np.testing.assert_array_equal(again['condition'], batch['condition'])


def expected_latents(run, config, count):
  """What a run encodes of its first examples, finished."""
  task = streams.task_of(config)
  source = streams.training(config).source
  examples = [task.example(source[i], np.random.default_rng((0, i))) for i in range(count)]
  batch = {name: np.stack([e[name] for e in examples]) for name in ('image', 'draws')}
  done = task.finish(batch)
  return {name: run.networks.encode(run.frozen, done[name]) for name in ('image', 'condition')}


def test_latents_encoded_ahead_are_those_of_finished_examples(config, tmp_path):
  config.data.cache = 3
  run = experiment(config, tmp_path / 'run')
  batch = next(run.batches)
  run.batches.close()
  assert {'image_latents', 'condition_latents'} <= batch.keys() and 'draws' not in batch
  (folder,) = (tmp_path / 'latents').glob('*/')
  kept = cache.Latents(folder)
  for name, latents in expected_latents(run, config, 3).items():
    ahead = np.stack([kept[i][f'{name}_latents'] for i in range(3)])
    np.testing.assert_allclose(ahead, latents, rtol=2**-10, atol=1e-3)
  assert np.isfinite(run.step(run.initial(), sharding.put_batch(batch, run.mesh))[1]['loss'])


def test_prepared_shards_hold_finished_examples(config, tmp_path):
  prepare.run(config, tmp_path / 'shards', count=3, shards=1, batch_size=2)
  run = experiment(config, tmp_path / 'run')
  source = streams.SOURCES['prepared'](None, path=str(tmp_path / 'shards'))
  for name, latents in expected_latents(run, config, 3).items():
    ahead = np.stack([source[i][f'{name}_latents'] for i in range(3)])
    np.testing.assert_allclose(ahead, latents, rtol=2**-10, atol=1e-3)


def test_a_plan_has_the_batch_and_the_work_of_the_run(config, tmp_path):
  shapes = planning.prior(config.prior, None)
  found = planning.compiled(planning.training(config, shapes, tiny.SIZE, jax.devices()))
  run = experiment(config, tmp_path)
  batch = next(run.batches)
  run.batches.close()
  del batch['present'], batch['sizes']
  held = jax.tree.leaves((run.abstract, run.frozen, batch))
  given = sum(size for kind, size in found.held.items() if kind not in ('activations', 'results'))
  assert given == sum(leaf.size * leaf.dtype.itemsize for leaf in held) + 8
