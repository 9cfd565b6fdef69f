"""What a task leaves to the devices: the same for an example in any batch, process and run."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from cdd.core.registry import bind
from cdd.data import SOURCES, TASKS, pipeline
from cdd.data.degradations.degradation import Degradation
from cdd.data.tasks.super_resolution import finishing

SIDE, FACTOR = 32, 4
SOURCE = SOURCES['photos'](('image',), split='test', size=SIDE)


def made(degradation, **settings):
  spec = dict(name=degradation, **settings)
  return bind(TASKS, dict(name='super_resolution', factor=FACTOR, degradation=spec), 'task')()


def tokenize(text):
  return dict(tokens=np.int32([len(text)]))


def batches(task, **settings):
  settings = dict(batch_size=4, seed=0) | settings
  return pipeline.Batches(SOURCE, task.example, tokenize, **settings)


@pytest.fixture(scope='module')
def task():
  return made('real_esrgan')


@pytest.fixture(scope='module')
def finish(task):
  return jax.jit(task.finish)


def test_an_example_has_random_bits_in_place_of_a_condition(task, finish):
  batch = next(batches(task))
  assert 'condition' not in batch
  assert batch['draws'].shape == (4, 2) and batch['draws'].dtype == np.uint32
  assert len({*batch['draws'].ravel().tolist()}) == 8
  done = finish(batch)
  assert done.keys() == (batch.keys() | {'condition'}) - {'draws'}
  assert done['condition'].shape == done['image'].shape == (4, SIDE, SIDE, 3)
  assert done['condition'].dtype == np.float32
  np.testing.assert_array_equal(done['tokens'], batch['tokens'])


def test_what_is_made_on_the_host_needs_no_device():
  task = made('simple')
  batch = next(batches(task))
  assert task.finish is None and 'condition' in batch and 'draws' not in batch


def test_the_bits_are_those_of_an_unbroken_run_with_any_workers_and_processes(task):
  whole = batches(task)
  expected = [next(whole) for _ in range(3)]
  resumed = batches(task, workers=1)
  resumed.set_state(dict(next_index=2))
  np.testing.assert_array_equal(next(resumed)['draws'], expected[2]['draws'])
  resumed.close()
  part = next(batches(task, rows=[1, 3]))
  np.testing.assert_array_equal(part['draws'], expected[0]['draws'][[1, 3]])
  assert not np.array_equal(next(batches(task, seed=1))['draws'], expected[0]['draws'])


def test_an_example_does_not_depend_on_the_rest_of_its_batch(task, finish):
  batch = next(batches(task))
  done = finish(batch)
  order = [2, 0, 3, 1]
  other = finish({name: array[order] for name, array in batch.items()})
  lone = [finish({name: array[i : i + 1] for name, array in batch.items()}) for i in range(4)]
  for name in ('image', 'condition'):
    np.testing.assert_array_equal(other[name], done[name][np.array(order)])
    alone = np.concatenate([one[name] for one in lone])
    np.testing.assert_allclose(alone, done[name], atol=1e-5)


def test_the_condition_is_the_small_image_enlarged_as_a_users_picture_is():
  task = made('bicubic')
  batch = next(batches(task))
  done = task.finish(batch)
  small = Image.fromarray((255 * batch['image'][0]).round().astype(np.uint8))
  small = small.resize((SIDE // FACTOR, SIDE // FACTOR), Image.Resampling.BICUBIC)
  assert np.abs(np.asarray(done['condition'][0]) - task.from_picture(small)).max() < 2.5 / 255


def test_a_share_of_the_conditions_is_left_intact():
  half = Degradation(on_device=lambda image, key: (image, image[::4, ::4]), intact=0.5)
  rng = np.random.default_rng(0)
  draws = rng.integers(2**32, size=(64, 2), dtype=np.uint32)
  images = rng.uniform(size=(64, 8, 8, 3)).astype(np.float32)
  done = finishing(half)(dict(image=images, draws=draws))
  same = (np.asarray(done['condition']) == images).all((1, 2, 3))
  assert 16 <= same.sum() <= 48


def test_any_default_generator_of_jax_gives_the_same(task, finish):
  batch = next(batches(task))
  with jax.default_prng_impl('rbg'):
    other = jax.jit(task.finish)(batch)
  np.testing.assert_array_equal(other['condition'], finish(batch)['condition'])


EIGHT = """
import json
import jax, numpy as np
from cdd.data import TASKS
from cdd.training import sharding

rng = np.random.default_rng(0)
batch = dict(
  image=rng.uniform(size=(8, 32, 32, 3)).astype(np.float32),
  draws=rng.integers(2**32, size=(8, 2), dtype=np.uint32),
)
finish = TASKS['super_resolution'](factor=4, degradation=dict(name='real_esrgan')).finish
eight = sharding.make_mesh(data=4, fsdp=2)
many = jax.jit(sharding.over_devices(finish, eight))
placed = sharding.put_batch(batch, eight)
cut, whole = many(placed), jax.jit(finish)(batch)
text = many.lower(placed).compile().as_text()
print(json.dumps(dict(
  devices=len(cut['condition'].sharding.device_set),
  rows=[shard.data.shape[0] for shard in cut['condition'].addressable_shards],
  gap=[float(np.abs(np.asarray(cut[name]) - np.asarray(whole[name])).max()) for name in whole],
  words=[word for word in ('all-gather', 'all-reduce', 'all-to-all', 'permute') if word in text],
)))
"""


def test_eight_devices_make_what_one_makes_without_a_word_between_them():
  flags = dict(XLA_FLAGS='--xla_force_host_platform_device_count=8', JAX_PLATFORMS='cpu')
  done = subprocess.run(
    [sys.executable, '-c', EIGHT], env={**os.environ, **flags}, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
  answers = json.loads(done.stdout)
  assert answers['devices'] == 8 and answers['rows'] == [1] * 8
  assert answers['words'] == [] and max(answers['gap']) < 1e-5
