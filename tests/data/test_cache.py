import json
import pickle
import threading
import time

import jax
import numpy as np
import pytest
import tiny

from cdd.core.errors import UserError
from cdd.core.registry import bind
from cdd.data import SOURCES, TASKS, cache
from cdd.runs import experiment, loop


@pytest.fixture
def config(prior):
  config = tiny.load('depth.py:tiny,method=finetune', prior)
  config.data.cache = 6
  config.data.source.length = 6
  config.evaluation = None
  config.optimizer.name = 'adamw'  # Muon takes three times as long to compile.
  return config


def test_latents_encoded_ahead_are_those_encoded_online_within_float16(config, tmp_path):
  run = experiment.experiment(config, tmp_path / 'run')
  (folder,) = (tmp_path / 'latents').glob('*/')
  kept = cache.Latents(folder)
  source = bind(SOURCES, config.data.source, 'source')()
  task = bind(TASKS, config.data.task, 'task')().draw
  examples = [task(source[i], np.random.default_rng((0, i))) for i in range(6)]
  encode = jax.jit(run.networks.encode)
  assert len(kept) == 6
  for name in ('image', 'condition'):
    online = np.asarray(encode(run.frozen, np.stack([e[name] for e in examples])))
    ahead = np.stack([kept[i][f'{name}_latents'] for i in range(6)])
    assert ahead.dtype == np.float32
    np.testing.assert_allclose(ahead, online, rtol=2**-10, atol=1e-4)
  assert [kept[i]['caption'] for i in range(6)] == [e['caption'] for e in examples]


def test_latents_that_are_not_finite_are_refused_and_nothing_is_kept(tmp_path):
  source = [dict(image=np.full((2, 2, 3), i, np.float32), caption='') for i in range(5)]
  encode = lambda images: np.where(images[:, :1, :1] == 3, 1e5, images[:, :1, :1])  # Of float16.
  draw = lambda example, rng: example
  settings = dict(count=5, batch_size=2, threads=1)
  with pytest.raises(UserError, match='latents of image are not finite in example 3: the auto'):
    cache.write(tmp_path / 'latents' / 'a', source, draw, dict(image=encode), **settings)
  assert [path.suffix for path in (tmp_path / 'latents').iterdir()] == ['.lock']


def test_a_run_with_a_cache_trains_and_a_second_run_reads_the_same_latents(config, tmp_path):
  config.steps = 1
  loop.run(config, tmp_path / 'one')
  (folder,) = (tmp_path / 'latents').glob('*/')
  written = (folder / 'image.npy').stat().st_mtime_ns
  (row,) = map(json.loads, (tmp_path / 'one' / 'log.jsonl').read_text().splitlines())
  assert row['step'] == 1 and np.isfinite(row['loss'])
  config.seed = 1
  second = experiment.experiment(config, tmp_path / 'two')
  assert list((tmp_path / 'latents').glob('*/')) == [folder]
  assert (folder / 'image.npy').stat().st_mtime_ns == written
  batch, stored = next(second.batches), np.load(folder / 'image.npy')
  assert {'image_latents', 'condition_latents'} <= batch.keys() and 'image' not in batch
  for latents in batch['image_latents']:
    assert any(np.array_equal(latents, row.astype(np.float32)) for row in stored)
  second.batches.close()


def plain(index):
  return dict(image=np.full((4, 4, 3), index / 8, np.float32), caption=f'{index}')


SOURCE = [plain(index) for index in range(8)]


def test_latents_are_there_whole_or_not_at_all(tmp_path):
  folder = tmp_path / 'latents'
  calls = []

  def encode(images):
    calls.append(len(images))
    if len(calls) == 2:
      raise RuntimeError('the second batch')
    return images[:, :2, :2]

  write = lambda: cache.write(
    folder, SOURCE, lambda x, rng: x, dict(image=encode), count=7, batch_size=4
  )
  with pytest.raises(RuntimeError, match='the second batch'):
    write()
  assert not folder.exists()
  write()
  kept = cache.Latents(folder)
  # The last batch is filled up to the one shape and cut again.
  assert calls == [4, 4, 4, 4] and len(kept) == 7
  for index in range(7):
    expected = SOURCE[index]['image'][:2, :2].astype(np.float16)
    np.testing.assert_array_equal(kept[index]['image_latents'], expected)


def test_whole_numbers_are_kept_exactly_and_read_as_pixels(tmp_path):
  pixels = lambda images: np.round(255 * images).astype(np.uint8)
  cache.write(tmp_path / 'a', SOURCE, lambda x, rng: x, dict(image=pixels), count=8)
  read = cache.Latents(tmp_path / 'a')[3]['image']
  expected = np.full((4, 4, 3), round(255 * 3 / 8) / 255, np.float32)
  assert read.dtype == np.float32
  np.testing.assert_allclose(read, expected, rtol=1e-6)


def test_a_cache_longer_than_its_source_is_refused(tmp_path):
  with pytest.raises(UserError, match=r'Cannot encode 9 of 8 examples \(data.cache\)'):
    cache.write(tmp_path / 'a', SOURCE, lambda x, rng: x, {}, count=9)


def mean(images):
  return images.mean((1, 2))[:, None, None]


def same(example, rng):
  return example


def test_worker_processes_encode_what_threads_encode(tmp_path):
  for name, workers in (('alone', 0), ('helped', 2)):
    cache.write(
      tmp_path / name, SOURCE, same, dict(image=mean), count=7, batch_size=2, workers=workers
    )
  for name in ('image.npy', 'captions.json'):
    assert (tmp_path / 'alone' / name).read_bytes() == (tmp_path / 'helped' / name).read_bytes()


def test_of_two_runs_at_once_one_encodes_and_the_other_waits(tmp_path):
  calls, entered = [], threading.Event()

  def slow(images):
    calls.append(len(images))
    entered.set()
    time.sleep(0.2)
    return mean(images)

  write = lambda: cache.write(tmp_path / 'a', SOURCE, same, dict(image=slow), count=8)
  first = threading.Thread(target=write)
  first.start()
  assert entered.wait(30)
  write()
  first.join()
  assert len(calls) == 1 and len(cache.Latents(tmp_path / 'a')) == 8


def test_a_worker_is_sent_the_place_of_latents_alone(tmp_path):
  cache.write(tmp_path / 'a', SOURCE, same, dict(image=mean), count=8)
  kept = cache.Latents(tmp_path / 'a')
  sent = pickle.dumps(kept)
  assert len(sent) < 300
  np.testing.assert_array_equal(pickle.loads(sent)[5]['image_latents'], kept[5]['image_latents'])


def test_the_room_of_a_file_is_taken_before_it_is_mapped(tmp_path):
  path = tmp_path / 'x.npy'
  np.lib.format.open_memmap(path, 'w+', np.float16, (10**6,))
  cache.reserve(str(path))
  assert path.stat().st_blocks * 512 >= path.stat().st_size > 2 * 10**6
