"""Sources of records: Parquet, WebDataset, ArrayRecord and TensorFlow Datasets."""

import gzip
import io
import json
import logging
import os
import pickle
import sys
import tarfile
import time

import aligned
import msgpack
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from cdd.core.errors import UserError
from cdd.core.registry import bind
from cdd.data import SOURCES, pipeline
from cdd.data.arrays import ARRAYS
from cdd.data.sources import records, shards

WHOLE = ('image', *[name for name in ARRAYS if name != 'image'])
each = pytest.mark.parametrize('kind', aligned.RECORDS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def make(kind, needs=WHOLE, **settings):
  return bind(SOURCES, dict(name=kind, size=12, **settings), 'source')(needs)


def numbers(source, needs=WHOLE, count=60):
  """The numbers of the examples that are drawn; each has its caption and its arrays."""
  found = set()
  for index in range(count):
    example = source[index]
    number = aligned.check(example, needs, (12, 12))
    assert example['caption'] == f'number {number}'
    found.add(number)
  return found


@each
def test_every_array_of_every_record_is_read_with_its_caption(kind, tmp_path):
  settings = aligned.RECORDS[kind](tmp_path)
  source = make(kind, **settings)
  assert numbers(source) == {*range(10)} and not source.skipped
  assert numbers(make(kind, ('image',), **settings), ('image',), 5)
  assert make(kind, **settings, caption_column='')[0]['caption'] == ''


@each
def test_a_source_of_records_can_be_sent_to_another_process(kind, tmp_path):
  source = make(kind, **aligned.RECORDS[kind](tmp_path))
  kept = [source[index] for index in range(5)]
  sent = pickle.dumps(source)
  assert len(sent) < 5000
  again = pickle.loads(sent)
  for index in (3, 0):
    for name in WHOLE:
      np.testing.assert_array_equal(again[index][name], kept[index][name])


def test_worker_processes_open_the_files_again_and_share_no_example(tmp_path):
  specs = [dict(name=kind, size=12, **write(tmp_path)) for kind, write in aligned.RECORDS.items()]
  source = bind(SOURCES, dict(name='mixture', sources=specs), 'source')(WHOLE)
  settings = dict(batch_size=8, seed=0)
  streams = [
    pipeline.Batches(source, lambda e, rng: e, lambda text: {}, **settings, **each)
    for each in (dict(workers=1), {}, dict(rows=[0, 1, 2, 3]), dict(rows=[4, 5, 6, 7]))
  ]
  for _ in range(2):
    workers, whole, first, second = (next(stream) for stream in streams)
    for name in WHOLE:
      np.testing.assert_array_equal(workers[name], whole[name])
      np.testing.assert_array_equal(np.concatenate([first[name], second[name]]), whole[name])
  for stream in streams:
    stream.close()


@pytest.mark.parametrize('kind', ['array_record', 'parquet', 'webdataset'])
def test_several_files_a_folder_a_pattern_and_a_range_are_read_in_their_order(kind, tmp_path):
  end = dict(array_record='array_record', parquet='parquet', webdataset='tar')[kind]
  for part in range(3):
    aligned.RECORDS[kind](tmp_path, count=4, start=4 * part, name=f'part-{part:02}.{end}')
  (tmp_path / 'readme.md').write_text('no records')
  names = [str(tmp_path / f'part-{part:02}.{end}') for part in range(3)]
  pattern, ranges = (str(tmp_path / f'part-{end}') for end in (f'*.{end}', f'{{00..02}}.{end}'))
  for path in (names, tmp_path, pattern, ranges):
    assert numbers(make(kind, ('image',), path=path), ('image',)) == {*range(12)}
  two = str(tmp_path / f'part-{{00,02}}.{end}')
  assert numbers(make(kind, ('image',), path=two), ('image',)) == {*range(4), *range(8, 12)}
  with pytest.raises(UserError, match=rf"no file .*nothing.*; set .*ending in one of \['\.{end}'"):
    make(kind, path=str(tmp_path / 'nothing*'))


def test_ranges_in_braces_are_spelled_out():
  assert records.spelled_out('a{08..10}b') == ['a08b', 'a09b', 'a10b']
  assert records.spelled_out('{x,yy}{1..2}') == ['x1', 'x2', 'yy1', 'yy2']
  assert records.spelled_out('plain{}') == ['plain{}']


@each
def test_what_the_records_lack_is_said_in_one_line_with_what_they_have(kind, tmp_path):
  settings = aligned.RECORDS[kind](tmp_path)
  for needs, wrong, said in (
    (('image', 'normals'), {}, "reads 'normals'.* it has"),
    (WHOLE, dict(columns=dict(depth='m')), r"no .*m.* \(columns\['depth'\]\); choose one of"),
    (WHOLE, dict(columns=dict(depht='x')), "Unknown array 'depht' in columns"),
    (WHOLE, dict(columns=3), r'columns is 3; it must be as dict\('),
    (WHOLE, dict(caption_column='blip'), r"no .*'blip' \(caption_column\); choose one of"),
    (WHOLE, dict(size=0), 'The size of a data source is 0'),
  ):
    with pytest.raises(UserError, match=said) as error:
      bind(SOURCES, dict(name=kind, size=12) | settings | wrong, 'source')(needs)
    assert '\n' not in str(error.value)


def without(monkeypatch, array):
  """Leaves an array out of what is written."""
  whole = aligned.arrays
  few = lambda number=0: {k: v for k, v in whole(number).items() if k != array}
  monkeypatch.setattr(aligned, 'arrays', few)


@pytest.mark.parametrize('kind', ['array_record', 'parquet', 'webdataset'])
def test_an_array_that_no_record_has_is_refused_at_once(kind, tmp_path, monkeypatch):
  without(monkeypatch, 'mask')
  settings = aligned.RECORDS[kind](tmp_path)
  assert make(kind, ('image', 'depth'), **settings)[0]
  said = r"the task reads 'mask'; none .*'mask_image'\], it has .*depth"
  with pytest.raises(UserError, match=said):
    make(kind, **settings)


@pytest.mark.parametrize('kind', ['array_record', 'parquet', 'webdataset'])
def test_a_damaged_record_is_skipped_and_named(kind, tmp_path, monkeypatch, caplog):
  whole = aligned.records

  def damaged(*args):
    made = whole(*args)
    made[1]['depth'] = made[1]['depth'][:50]
    made[2]['mask'] = aligned.encoded(np.zeros((5, 50), np.uint8))
    made[3]['image'] = aligned.encoded(np.zeros((6, 8, 3), np.uint8))
    return made

  monkeypatch.setattr(aligned, 'records', damaged)
  with caplog.at_level(logging.WARNING):
    source = make(kind, **aligned.RECORDS[kind](tmp_path))
    assert numbers(source) == {0, *range(4, 10)}
  assert len(source.skipped) == 3
  said = ' '.join(source.skipped.values())
  assert 'its depth: ' in said and 'its mask is 50x5' in said and '8x6 pixels, smaller' in said
  assert len(caplog.records) == 3


def test_a_column_may_hold_bytes_paths_or_rows_of_numbers(tmp_path):
  made = aligned.arrays(5)
  (tmp_path / 'there').mkdir()
  aligned.save(tmp_path / 'there' / 'mask.png', made['mask'])
  row = dict(
    original_image=aligned.encoded(made['image']),
    edited_image=dict(bytes=None, path='there/edited.png'),
    mask='there/mask.png',
    depth=made['depth'].astype(np.float32).tolist(),
    edit_prompt='number 5',
    text='no instruction',
  )
  aligned.save(tmp_path / 'there' / 'edited.png', made['edited_image'])
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row] * 3), tmp_path / 'a.parquet')
  needs = ('image', 'edited_image', 'mask', 'depth')
  assert numbers(make('parquet', needs, path=tmp_path / 'a.parquet'), needs, 8) == {5}
  for path, said in (
    ('../a.png', 'not below the folder'),
    ('/a.png', 'not below'),
    (None, 'not there'),
  ):
    rows = [dict(row, mask=path), row]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'a.parquet')
    source = make('parquet', needs, path=tmp_path / 'a.parquet')
    numbers(source, needs, 8)
    (reason,) = source.skipped.values()
    assert 'its mask: it is' in reason and said in reason


@pytest.mark.parametrize('opened', [pyarrow.ipc.new_stream, pyarrow.ipc.new_file])
def test_arrow_files_of_both_kinds_are_read(opened, tmp_path):
  settings = aligned.parquet(tmp_path, name='a.arrow', opened=opened)
  assert numbers(make('parquet', **settings)) == {*range(10)}


@pytest.mark.parametrize(
  'kind, name',
  [
    ('parquet', 'a.parquet'),
    ('parquet', 'a.arrow'),
    ('array_record', 'a.array_record'),
    ('webdataset', 'a.tar'),
  ],
)
def test_a_file_that_is_something_else_or_empty_is_named(kind, name, tmp_path):
  for data in (b'', b'something else entirely' * 40):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
      UserError, match=rf'{name}.*(cannot be read|no tar file|has no records)'
    ) as error:
      make(kind, path=tmp_path / name)
    assert 'Error' not in str(error.value) and '\n' not in str(error.value)


def test_a_compressed_shard_is_refused_by_name(tmp_path):
  aligned.webdataset(tmp_path)
  data = gzip.compress((tmp_path / 'a.tar').read_bytes())
  (tmp_path / 'a.tar').write_bytes(data)
  with pytest.raises(UserError, match=r'a\.tar is compressed \(gzip\); .*unpack it first'):
    make('webdataset', path=tmp_path / 'a.tar')


def indexed(path):
  (part,) = records.parts(path, ['.tar'])
  return shards.index(part)


def test_the_index_of_a_shard_is_made_once_and_again_when_it_changes(tmp_path, monkeypatch):
  path = aligned.webdataset(tmp_path, count=3)['path']
  made, spans = [], shards._spans
  monkeypatch.setattr(shards, '_spans', lambda shard: made.append(shard) or spans(shard))
  first = indexed(path)
  np.testing.assert_array_equal(indexed(path), first)
  assert len(made) == 1 and len(first) == 3
  aligned.webdataset(tmp_path, count=4)
  os.utime(path, (1, 1))
  assert len(indexed(path)) == 4 and len(made) == 2
  # Python's own reader gives the offsets of all members.
  with tarfile.open(path) as archive:
    offsets = [info.offset for info in archive if info.name.endswith('/0002.png')]
  assert indexed(path)[2, 0] == offsets[0]


def test_keys_end_at_the_first_dot_and_members_of_no_sample_are_passed_over(tmp_path):
  extra = [('._junk.png', b'x'), ('README', b'x'), ('dir.v2/b.c.txt', b'x'), ('.hidden.txt', b'')]
  settings = aligned.webdataset(tmp_path, count=3, extra=extra[:2] + extra[3:])
  assert numbers(make('webdataset', **settings), count=20) == {0, 1, 2}
  split = lambda name: shards.split(tarfile.TarInfo(name))
  assert split('dir.v2/b.c.Txt') == ('dir.v2/b', 'c.txt')
  assert split('README') is None and split('.x.png') is None


def test_captions_of_a_sample_are_its_text_or_a_field_of_its_json(tmp_path):
  image = aligned.encoded(aligned.arrays(7)['image'])
  words = json.dumps(dict(caption='from json', blip='from blip')).encode()
  for extra, settings, expected in (
    ([('a.png', image), ('a.json', words)], {}, 'from json'),
    ([('a.png', image), ('a.json', words), ('a.txt', b' beside\n')], {}, 'beside'),
    ([('a.png', image), ('a.json', words)], dict(caption_column='blip'), 'from blip'),
    ([('a.png', image)], {}, ''),
    ([('a.png', image), ('a.json', words), ('a.edited.png', image)], {}, 'from json'),
  ):
    made = aligned.webdataset(tmp_path, count=0, extra=extra)
    os.utime(made['path'], (len(expected) * 9, len(extra)))
    assert make('webdataset', ('image',), **made, **settings)[0]['caption'] == expected


def test_a_shard_that_is_cut_off_keeps_its_whole_samples_and_is_warned_of(tmp_path, caplog):
  path = aligned.webdataset(tmp_path)['path']
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with caplog.at_level(logging.WARNING):
    found = numbers(make('webdataset', path=path))
  assert 'a.tar is cut off; its last sample is left out' in caplog.text
  assert found == {*range(len(found))} and 3 <= len(found) <= 6
  path.write_bytes(path.read_bytes()[:-700])  # In the middle of a member.
  assert numbers(make('webdataset', path=path)) == found


def test_long_names_of_members_are_read(tmp_path):
  image = aligned.encoded(aligned.arrays(7)['image'])
  key = '/'.join(['folder' * 10] * 4)
  for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
    path = tmp_path / f'{kind}.tar'
    with tarfile.open(path, 'w', format=kind) as archive:
      for member, data in (
        (f'{key}/a.png', image),
        (f'{key}/a.txt', b'number 7'),
        (f'{key}/b.png', image),
        (f'{key}/b.txt', b'number 7'),
      ):
        info = tarfile.TarInfo(member)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    source = make('webdataset', ('image',), path=path)
    assert numbers(source, ('image',), 10) == {7} and len(indexed(path)) == 2


def test_records_that_are_no_maps_and_groups_of_records_are_said(tmp_path, caplog):
  path = tmp_path / 'a.array_record'
  writer = ArrayRecordWriter(str(path), 'group_size:1')
  writer.write(msgpack.packb([1, 2]))
  writer.close()
  with pytest.raises(UserError, match='first record of .* it is no MessagePack map'):
    make('array_record', path=path)
  with caplog.at_level(logging.WARNING):
    source = make(
      'array_record',
      **aligned.array_record(tmp_path, name='b.array_record', options='group_size:4'),
    )
  assert 'write it with group_size:1' in caplog.text
  assert numbers(source) == {*range(10)}
  with pytest.raises(UserError, match='read from local folders'):
    make('array_record', path=['gs://bucket/a.array_record'])


def test_a_data_set_of_tfds_that_is_not_there_or_in_another_format_says_what_to_do(tmp_path):
  settings = aligned.tfds(tmp_path, count=2)
  with pytest.raises(UserError, match=r"split 'tset' of tfds .*choose one of \['train'\]"):
    make('tfds', **settings, split='tset')
  assert numbers(make('tfds', **settings, split='train[:50%]'), count=8) < {0, 1}
  with pytest.raises(UserError, match="tfds has no data set 'nothing'"):
    make('tfds', dataset='nothing', data_dir=str(tmp_path))


@pytest.mark.parametrize(
  'kind, package, extra',
  [('parquet', 'pyarrow', 'parquet'), ('tfds', 'tensorflow_datasets', 'tfds')],
)
def test_a_package_that_is_missing_is_one_line_that_names_the_extra(
  kind, package, extra, tmp_path, monkeypatch
):
  settings = aligned.RECORDS[kind](tmp_path)
  for name in [*sys.modules]:
    if name.split('.')[0] == package:
      monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(UserError, match=rf"needs the package .*pip install 'cdd-jax\[{extra}\]'"):
    make(kind, **settings)


@pytest.mark.slow
def test_a_million_records_open_at_once_and_one_in_the_middle_is_read_at_once(tmp_path):
  record = aligned.records(1, 7)[0]
  small = dict(image=record['image'], text=record['text'])
  writer = ArrayRecordWriter(str(tmp_path / 'a.array_record'), 'group_size:1')
  for number in range(1_000_000):
    writer.write(msgpack.packb(dict(small, number=number)))
  writer.close()
  start = time.perf_counter()
  source = make('array_record', ('image',), path=tmp_path / 'a.array_record')
  opened = time.perf_counter() - start
  start = time.perf_counter()
  whole = source._examples[700_000]
  assert whole.sizes == [(32, 24)] and whole.caption == 'number 7'
  read = time.perf_counter() - start
  sent = len(pickle.dumps(source))
  print(f'opened in {1000 * opened:.0f} ms, record 700000 in {1000 * read:.1f} ms, {sent} bytes')
  assert opened < 1 and read < 0.1 and sent < 5000
