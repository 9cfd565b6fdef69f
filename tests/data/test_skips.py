"""Examples that are damaged: counted, listed in a file by all processes, and limited."""

import json
import logging
import multiprocessing
import pickle

import aligned
import grain
import numpy as np
import pytest
from PIL import Image

from cdd.core.errors import UserError
from cdd.core.registry import bind
from cdd.data import SOURCES, images, pipeline, skips, transforms


class Toy:
  """An example that is sound, damaged or too small."""

  def __init__(self, number, kind):
    self.name, self.kind, self.caption = f'{number}', kind, f'{number}'
    self.original = 16, 16

  @property
  def sizes(self):
    if self.kind == 'damaged':
      raise images.Unreadable('it is cut short')
    return transforms.sizes(6, 6, 12) if self.kind == 'small' else [(16, 16)]

  def arrays(self, size):
    return dict(image=np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8))


def crops(kinds, **settings):
  examples = [Toy(number, kind) for number, kind in enumerate(kinds)]
  settings = dict(size=12, seed=0, length=100_000, label='toys') | settings
  return transforms.RandomCrops(examples, **settings)


def draw(source, count):
  for index in range(count):
    source[index]


def test_more_damage_than_is_borne_ends_the_run_and_less_does_not():
  kinds = ['damaged'] * 3 + ['sound'] * 17
  draw(crops(kinds, max_skipped=0.3), 3000)
  with pytest.raises(UserError) as error:
    draw(crops(kinds, max_skipped=0.1), 3000)
  said = str(error.value)
  assert 'examples drawn of toys are damaged, more than the share of 0.1 that max_skipped' in said
  damaged, drawn = (int(word) for word in said.split()[:3:2])
  assert damaged == 101 and 0.1 < damaged / drawn < 0.3


def test_one_damaged_example_ends_a_run_that_bears_none():
  with pytest.raises(UserError, match='1 of .*; 2 is the last: it is cut short'):
    draw(crops(['sound', 'sound', 'damaged'], max_skipped=0), 50)


def test_examples_that_are_too_small_are_no_damage(caplog):
  source = crops(['small'] * 30 + ['sound'], max_skipped=0.0)
  with caplog.at_level(logging.WARNING):
    draw(source, 200)
  assert len(source.skipped) == 30
  messages = [record.getMessage() for record in caplog.records]
  assert len(messages) == 21 and 'more are not warned of' in messages[-1]


def test_what_was_seen_before_changes_no_crop():
  kinds = ['damaged', 'small', 'sound', 'sound'] * 5
  fresh, used = crops(kinds), crops(kinds)
  draw(used, 300)
  for index in (40, 7, 123):
    one, other = crops(kinds)[index], used[index]
    assert one['caption'] == other['caption'] == fresh[index]['caption']
    np.testing.assert_array_equal(one['image'], other['image'])


def test_a_source_that_has_skipped_can_be_sent(tmp_path):
  source = crops(['damaged', 'small', 'sound'])
  source.list_skipped(tmp_path / 'skipped.jsonl')
  draw(source, 20)
  again = pickle.loads(pickle.dumps(source))
  assert (
    again.skipped
    == source.skipped
    == {
      '0': 'it is cut short',
      '1': '6x6 pixels, smaller than a crop of 12',
    }
  )
  np.testing.assert_array_equal(again[5]['image'], source[5]['image'])


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_damaged_example_is_listed_once_with_its_reason_and_by_a_resumed_run_not_again(
  tmp_path,
):
  path = tmp_path / 'run' / 'skipped.jsonl'
  for _ in range(2):
    source = crops(['damaged', 'small', 'sound', 'damaged'])
    source.list_skipped(path)
    draw(source, 40)
  found = {(row['source'], row['name'], row['reason']) for row in rows(path)}
  assert found == {('toys', name, 'it is cut short') for name in '03'} and len(rows(path)) == 2


def test_headers_that_are_damaged_are_listed_at_once_and_small_ones_are_not(tmp_path):
  for name in 'abc':
    aligned.save(tmp_path / 'data' / f'{name}.png', aligned.arrays()['image'])
  (tmp_path / 'data' / 'b.png').write_text('no image')
  Image.new('RGB', (4, 4)).save(tmp_path / 'data' / 'c.png')
  spec = dict(name='image_folder', path=tmp_path / 'data', size=12)
  mixture = dict(name='mixture', sources=[spec, dict(name='scenes', size=12)])
  source = bind(SOURCES, mixture, 'source')()
  source.list_skipped(tmp_path / 'skipped.jsonl')
  (row,) = rows(tmp_path / 'skipped.jsonl')
  assert (
    row['name'] == 'b.png'
    and 'no image' in row['reason']
    and {*source.skipped} == {'b.png', 'c.png'}
  )


def add(path, count):
  listing = skips.Listing(path)
  for number in range(count):
    listing.add('source', f'{number}', 'a reason')


def test_processes_that_add_at_once_lose_and_double_nothing(tmp_path):
  path = tmp_path / 'skipped.jsonl'
  fork = multiprocessing.get_context('fork').Process
  workers = [fork(target=add, args=(path, 40)) for _ in range(3)]
  for worker in workers:
    worker.start()
  add(path, 40)
  for worker in workers:
    worker.join()
  assert sorted(int(row['name']) for row in rows(path)) == [*range(40)]


def test_worker_processes_list_what_they_skip(tmp_path, monkeypatch):
  whole = aligned.records

  def damaged(*args):
    made = whole(*args)
    made[1]['image'] = made[1]['image'][:50]
    return made

  monkeypatch.setattr(aligned, 'records', damaged)
  settings = aligned.array_record(tmp_path, count=4)
  source = bind(SOURCES, dict(name='array_record', size=12, **settings), 'source')()
  source.list_skipped(tmp_path / 'run' / 'skipped.jsonl')
  stream = pipeline.prefetched(grain.MapDataset.source(source)[:16].batch(4), threads=2, workers=1)
  assert len([*stream]) == 4
  (row,) = rows(tmp_path / 'run' / 'skipped.jsonl')
  assert row['name'] == 'a.array_record, record 1' and 'array_record(' in row['source']
  assert not source.skipped  # That process knows nothing of it.


def test_a_folder_of_which_too_much_is_damaged_is_refused_by_its_headers(tmp_path):
  for number in range(20):
    aligned.save(tmp_path / f'{number:02}.png', aligned.arrays()['image'])
  for number in range(12):
    (tmp_path / f'{number:02}.png').write_text('no image')
  make = lambda **settings: bind(
    SOURCES, dict(name='image_folder', path=tmp_path, size=12, **settings), 'source'
  )()
  with pytest.raises(UserError, match=r'12 of 20 images in .* the share of 0.1 .*00\.png'):
    make()
  assert len(make(max_skipped=0.6).skipped) == 12
  with pytest.raises(UserError, match='1 of 9 images'):
    for number in range(1, 12):
      (tmp_path / f'{number:02}.png').unlink()
    make(max_skipped=0)


@pytest.mark.parametrize('value', [-0.1, 1.5, True, 'all'])
def test_a_share_that_is_none_is_named(value):
  with pytest.raises(UserError, match=r'max_skipped is .*; it must be a share, 0\.\.1'):
    crops(['sound'], max_skipped=value)


def test_a_disk_that_refuses_the_list_is_warned_of(tmp_path, caplog):
  (tmp_path / 'file').write_text('in the way')
  with caplog.at_level(logging.WARNING):
    skips.Listing(tmp_path / 'file' / 'skipped.jsonl').add('a', 'b', 'c')
  assert 'skipped.jsonl cannot be written' in caplog.text
