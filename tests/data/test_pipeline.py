import numpy as np
import pytest

from cdd.core.errors import UserError
from cdd.data import pipeline

COUNT = 11
HALF = pipeline.Dropout(0.5)
SOURCE = [
  dict(image=np.full((2, 2, 3), i, np.float32), caption=f'number {i}') for i in range(COUNT)
]


def task(example, rng):
  """Marks an example with a number drawn for it."""
  return dict(example, condition=np.full((2, 2, 3), rng.random(), np.float32))


def tokenize(text):
  return dict(tokens=np.array([len(text)], np.int32))


def batches(**settings):
  return pipeline.Batches(
    SOURCE, task, tokenize, **(dict(batch_size=4, seed=0, threads=2) | settings)
  )


def take(iterator, count):
  """The next `count` batches as one dict."""
  got = [next(iterator) for _ in range(count)]
  return {name: np.concatenate([batch[name] for batch in got]) for name in got[0]}


def same(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_stream_depends_on_the_seed_alone():
  assert same(take(batches(), 6), take(batches(threads=1), 6))
  assert not same(take(batches(), 6), take(batches(seed=1), 6))


def test_every_epoch_visits_every_example_once_in_another_order():
  numbers = take(batches(batch_size=1), 2 * COUNT)['image'][:, 0, 0, 0].astype(int).tolist()
  first, second = numbers[:COUNT], numbers[COUNT:]
  assert sorted(first) == sorted(second) == list(range(COUNT))
  assert first != second


def test_an_example_draws_anew_in_every_epoch():
  drawn = take(batches(batch_size=1), 3 * COUNT)['condition'][:, 0, 0, 0]
  assert len(set(drawn.tolist())) == 3 * COUNT


def test_a_resumed_iterator_gives_what_an_unbroken_one_gives():
  unbroken, broken = batches(dropout=HALF), batches(dropout=HALF)
  take(unbroken, 5), take(broken, 5)
  resumed = batches(dropout=HALF)
  resumed.set_state(broken.get_state())
  assert same(take(resumed, 8), take(unbroken, 8))


def test_a_stream_goes_on_with_other_batch_sizes_and_repeats_nothing():
  small = batches(batch_size=2)
  drawn = take(small, 3)['image'][:, 0, 0, 0].tolist()
  large = batches(batch_size=4)
  large.set_state(small.get_state())
  whole = take(batches(batch_size=2), 6)['image'][:, 0, 0, 0].tolist()
  assert next(large)['image'][:, 0, 0, 0].tolist() == whole[8:12] and whole[:6] == drawn
  assert small.get_state() == dict(next_example=6)


def test_worker_processes_give_the_stream_of_threads_and_resume_in_it():
  alone, helped = batches(dropout=HALF), batches(dropout=HALF, workers=2)
  assert same(take(helped, 5), take(alone, 5))
  resumed = batches(dropout=HALF, workers=2)
  resumed.set_state(helped.get_state())
  assert same(take(resumed, 4), take(alone, 4))
  helped.close(), resumed.close()


def test_a_stream_goes_on_with_other_workers_and_threads():
  alone, helped = batches(dropout=HALF), batches(dropout=HALF, workers=2)
  take(alone, 5), take(helped, 5)
  resumed = batches(dropout=HALF, threads=1)
  resumed.set_state(helped.get_state())
  assert same(take(resumed, 4), take(alone, 4))
  helped.close()


def test_the_parts_of_two_processes_are_together_the_batch_of_one():
  whole = batches(dropout=HALF)
  rows = ([0, 3], [1, 2])  # A mesh may lay devices in any order.
  parts = [batches(dropout=HALF, rows=mine) for mine in rows]
  for _ in range(9):
    expected = next(whole)
    for mine, part in zip(rows, map(next, parts), strict=True):
      for name, array in part.items():
        np.testing.assert_array_equal(array, expected[name][mine], err_msg=name)


def test_captions_are_dropped_as_often_as_asked():
  empty = lambda dropout: np.mean(
    take(batches(dropout=pipeline.Dropout(dropout)), 100)['tokens'] == 0
  )
  assert empty(0.0) == 0 and empty(1.0) == 1
  assert abs(empty(0.3) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 400)


def test_a_caption_that_is_dropped_is_not_present():
  batch = take(batches(dropout=HALF), 30)
  np.testing.assert_array_equal(batch['present'] == 0, batch['tokens'][..., 0] == 0)
  assert 0 < batch['present'].mean() < 1


def test_caption_and_condition_are_dropped_alone_and_together_as_often_as_asked():
  shares = dict(caption=0.1, both=0.2, condition=0.3)
  batch = take(batches(dropout=pipeline.Dropout(**shares)), 500)
  text, image = batch['present'], batch['condition_present']
  np.testing.assert_array_equal(text == 0, batch['tokens'][..., 0] == 0)
  found = dict(
    caption=(1 - text) * image, both=(1 - text) * (1 - image), condition=text * (1 - image)
  )
  for name, share in shares.items():
    assert abs(found[name].mean() - share) < 4 * np.sqrt(share * (1 - share) / 2000), name


def test_a_stream_without_dropped_conditions_is_what_it_was_before_they_could_be():
  rng = np.random.default_rng(5)
  assert pipeline.Dropout(0.5).drawn(rng) == dict(present=np.random.default_rng(5).random() >= 0.5)


def test_held_out_batches_are_the_first_examples_in_order_and_always_the_same():
  make = lambda: pipeline.held_out(SOURCE, task, tokenize, batch_size=4, seed=0, count=8)
  first, again = make(), make()
  numbers = [batch['image'][:, 0, 0, 0].tolist() for batch in first]
  assert numbers == [[0, 1, 2, 3], [4, 5, 6, 7]]
  assert all(same(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(('count', 'size'), [(6, 4), (12, 4)])
def test_a_held_out_count_that_does_not_fit_is_refused(count, size):
  with pytest.raises(UserError, match=f'Cannot evaluate {count} of 11'):
    pipeline.held_out(SOURCE, task, tokenize, batch_size=size, seed=0, count=count)
