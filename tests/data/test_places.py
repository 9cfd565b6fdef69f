"""Folders and files that are URLs, in fsspec's file system in memory."""

import json
import pickle
import sys

import aligned
import fsspec
import numpy as np
import pyarrow.parquet
import pytest

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.registry import bind
from cdd.data import SOURCES, images
from cdd.data.arrays import ARRAYS

WHOLE = ('image', *[name for name in ARRAYS if name != 'image'])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def memory():
  """An empty file system in memory."""
  system = fsspec.filesystem('memory')
  system.store.clear()
  system.pseudo_dirs[:] = ['']
  yield system
  system.store.clear()


def upload(folder, system, to='/data'):
  """Copies a local folder; its URL."""
  for path in sorted(folder.rglob('*')):
    if path.is_file():
      system.pipe(f'{to}/{path.relative_to(folder).as_posix()}', path.read_bytes())
  return f'memory:/{to}'


def fill(folder):
  """Two examples of every array, files beside each image."""
  for number, name in enumerate(('a', 'more/b')):
    for array, values in aligned.arrays(number).items():
      end = '' if array == 'image' else f'.{array}'
      aligned.save(folder / f'{name}{end}.png', values)
    (folder / f'{name}.txt').write_text(f'number {number}')
  return folder


def make(name, needs=WHOLE, **settings):
  return bind(SOURCES, dict(name=name, size=12, **settings), 'source')(needs)


def alike(one, other, needs=WHOLE, count=12):
  """Asserts that two sources give the same examples."""
  for index in range(count):
    first, second = one[index], other[index]
    aligned.check(first, needs, (12, 12))
    assert first['caption'] == second['caption'] != ''
    for name in needs:
      np.testing.assert_array_equal(first[name], second[name])


def test_a_folder_elsewhere_gives_what_the_same_local_folder_gives(tmp_path, memory):
  local = make('image_folder', path=fill(tmp_path / 'here'))
  away = make('image_folder', path=upload(tmp_path / 'here', memory))
  alike(away, local)
  alike(pickle.loads(pickle.dumps(away)), local)


def test_metadata_and_splits_are_found_elsewhere(tmp_path, memory):
  fill(tmp_path / 'here' / 'train')
  rows = [dict(file_name='a.png', text='one'), dict(file_name='more/b.png', text='two')]
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (tmp_path / 'here' / 'train' / 'metadata.jsonl').write_text(lines)
  url = upload(tmp_path / 'here', memory)
  alike(make('image_folder', path=url, split='train'), make('image_folder', path=f'{url}/train/'))
  source = make('image_folder', path=url, split='train')
  assert {source[index]['caption'] for index in range(20)} == {'one', 'two'}


def test_a_file_that_is_missing_or_too_small_elsewhere_is_skipped_when_it_is_drawn(
  tmp_path, memory
):
  url = upload(fill(tmp_path / 'here'), memory)
  source = make('image_folder', path=url)
  memory.rm('/data/a.depth.png')
  memory.pipe('/data/more/b.png', aligned.encoded(np.zeros((6, 8, 3), np.uint8)))
  with pytest.raises(UserError, match='No example of image_folder'):
    source[0]
  assert source.skipped == {
    'a.png': 'its depth: there is no such file',
    'more/b.png': '8x6 pixels, smaller than a crop of 12',
  }


@pytest.mark.parametrize('kind', ['parquet', 'webdataset', 'instruct_pix2pix'])
def test_records_elsewhere_are_what_they_are_here(kind, tmp_path, memory):
  (tmp_path / 'here').mkdir()
  settings = aligned.WRITTEN[kind](tmp_path / 'here')
  needs = ('image', 'edited_image')
  url = upload(tmp_path / 'here', memory)
  local = make(kind, needs, path=tmp_path / 'here')
  assert settings['path'].exists()
  alike(make(kind, needs, path=url), local, needs)
  if kind != 'instruct_pix2pix':
    alike(make(kind, needs, path=f'{url}/a.*'), local, needs)
    alike(make(kind, needs, path=[f'{url}/{settings["path"].name}']), local, needs)


def test_a_shard_that_was_written_again_is_indexed_again(tmp_path, memory):
  for count in (3, 5):
    (tmp_path / str(count)).mkdir()
    aligned.webdataset(tmp_path / str(count), count=count)
    url = upload(tmp_path / str(count), memory)
    assert len(make('webdataset', path=f'{url}/a.tar')._examples) == count


@pytest.mark.parametrize(
  'scheme, package, advice',
  [
    ('gs', 'gcsfs', r"pip install 'cdd-jax\[gcs\]'"),
    ('s3', 's3fs', r"pip install 'cdd-jax\[s3\]'"),
    ('abfs', 'adlfs', 'pip install adlfs'),
  ],
)
@pytest.mark.parametrize('kind', ['image_folder', 'parquet', 'webdataset'])
def test_a_scheme_whose_package_is_missing_is_one_line_that_says_how_to_install_it(
  kind, scheme, package, advice, monkeypatch
):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(UserError, match=rf'needs a package to read {scheme}://: {advice}') as error:
    make(kind, path=f'{scheme}://bucket/data')
  assert '\n' not in str(error.value)


def test_an_unknown_scheme_and_a_folder_that_is_not_there_are_named(memory):
  with pytest.raises(UserError, match='nosuch://x/y cannot be read: .*nosuch'):
    make('image_folder', path='nosuch://x/y')
  with pytest.raises(UserError, match="no image folder 'memory://nothing'"):
    make('image_folder', path='memory://nothing')
  with pytest.raises(UserError, match='no file .*memory://nothing'):
    make('parquet', path='memory://nothing/*.parquet')


def test_a_store_that_fails_ends_the_run_and_is_not_taken_for_a_damaged_picture(
  tmp_path, memory, monkeypatch
):
  source = make('image_folder', path=upload(fill(tmp_path / 'here'), memory))

  def failing(*args, **kwargs):
    raise TimeoutError('no answer from\nthe store')

  monkeypatch.setattr(type(memory), 'cat_file', failing)
  with pytest.raises(UserError, match=r'memory://.* cannot be read: no answer from the store\.'):
    source[0]
  with pytest.raises(UserError, match='no answer'):
    images.opened('memory://data/a.png')
  assert not source.skipped


def test_a_parquet_file_elsewhere_is_damaged_or_its_store_fails_and_these_are_told_apart(
  tmp_path, memory, monkeypatch
):
  (tmp_path / 'here').mkdir()
  path = aligned.parquet(tmp_path / 'here')['path']
  group, data = pyarrow.parquet.read_metadata(path).row_group(0), bytearray(path.read_bytes())
  chunks = [group.column(number) for number in range(group.num_columns)]
  (start,) = [c.data_page_offset for c in chunks if c.path_in_schema == 'image.bytes']
  data[start : start + 60] = bytes(60)
  path.write_bytes(data)
  url = upload(tmp_path / 'here', memory)
  source = make('parquet', ('image',), path=url)
  seen = {source[index]['caption'] for index in range(60)}
  assert seen == {f'number {number}' for number in range(3, 10)}
  assert len(source.skipped) == 3 and all('group 0' in name for name in source.skipped)
  source = make('parquet', ('image', 'mask'), path=url)  # Columns of which none is cached.

  def failing(*args):
    raise TimeoutError('no answer from the store')

  monkeypatch.setattr(type(memory.open('/data/a.parquet')), 'read', failing)
  with pytest.raises(UserError, match=r'a\.parquet cannot be read: no answer from the store'):
    source[0]
  assert not source.skipped


def test_names_of_places():
  assert places.is_url('gs://a/b') and not places.is_url('a/b') and not places.is_url('C:/a')
  assert places.joined('s3://a/b/', 'c/d.png') == 's3://a/b/c/d.png'


def test_parts_of_files_are_read_alike_here_and_elsewhere(tmp_path, memory):
  data = bytes(range(200))
  (tmp_path / 'a').write_bytes(data)
  memory.pipe('/x/a', data)
  for place in (tmp_path / 'a', str(tmp_path / 'a'), 'memory://x/a'):
    assert places.read(place) == places.opened(place).read() == data
    assert places.read_range(place, 10, 30) == data[10:30]
    with places.seekable(place) as file:
      file.seek(150)
      assert file.read(5) == data[150:155]
    assert places.is_file(place) and not places.is_folder(place)
    assert places.stamp(place) == places.stamp(place)
