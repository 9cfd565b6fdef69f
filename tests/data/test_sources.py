import json
import logging

import numpy as np
import pytest
from PIL import Image

from cdd.data import sources
from cdd.errors import UserError

# One colour per picture: a crop tells which picture it is from.
COLOURS = {'red.png': (200, 10, 10), 'green.png': (10, 200, 10), 'blue.png': (10, 10, 200)}


def fill(folder, rows=None):
  for name, colour in COLOURS.items():
    Image.new('RGB', (20, 16), colour).save(folder / name)
  if rows is not None:
    (folder / 'metadata.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder


def seen(source, count=40):
  """{caption: colours of its crops} over the first examples."""
  found = {}
  for index in range(count):
    example = source[index]
    colour = tuple(np.round(255 * example['image'][0, 0]).astype(int).tolist())
    found.setdefault(example['caption'], set()).add(colour)
  return found


def test_captions_come_from_the_metadata_of_the_folder(tmp_path):
  rows = [dict(file_name=name, text=f'a {name[:-4]} picture') for name in COLOURS]
  found = seen(sources.image_folder(path=fill(tmp_path, rows), size=8))
  assert found == {f'a {name[:-4]} picture': {colour} for name, colour in COLOURS.items()}


def test_captions_come_from_the_text_beside_an_image_or_are_empty(tmp_path):
  fill(tmp_path)
  (tmp_path / 'red.txt').write_text('something red\n')
  found = seen(sources.image_folder(path=tmp_path, size=8))
  assert found['something red'] == {COLOURS['red.png']}
  assert found[''] == {COLOURS['green.png'], COLOURS['blue.png']}


def test_a_split_keeps_its_own_rows_alone(tmp_path):
  splits = dict(zip(COLOURS, ('train', 'train', 'test'), strict=True))
  rows = [dict(file_name=name, text=name, split=split) for name, split in splits.items()]
  fill(tmp_path, rows)
  assert seen(sources.image_folder(path=tmp_path, size=8, split='test')).keys() == {'blue.png'}
  train = sources.image_folder(path=tmp_path, size=8, split='train')
  assert seen(train).keys() == {'red.png', 'green.png'}


def test_a_corrupt_image_among_many_is_skipped_counted_and_warned_of(tmp_path, caplog):
  fill(tmp_path)
  whole = (tmp_path / 'red.png').read_bytes()
  (tmp_path / 'cut.png').write_bytes(whole[: len(whole) // 2])
  (tmp_path / 'text.jpg').write_text('no image at all')
  Image.new('RGB', (4, 4)).save(tmp_path / 'small.png')
  with caplog.at_level(logging.WARNING):
    source = sources.image_folder(path=tmp_path, size=8)
  assert sorted(source.skipped) == ['cut.png', 'small.png', 'text.jpg']
  assert all(name in caplog.text for name in source.skipped)
  assert seen(source) == {'': set(COLOURS.values())}


def test_a_row_whose_file_is_missing_is_skipped(tmp_path):
  rows = [dict(file_name=name) for name in (*COLOURS, 'gone.png')]
  assert sources.image_folder(path=fill(tmp_path, rows), size=8).skipped == ['gone.png']


def test_a_folder_of_corrupt_images_is_an_error_that_names_it(tmp_path):
  (tmp_path / 'a.png').write_bytes(b'\x89PNG nothing')
  with pytest.raises(UserError, match=rf'No image in .*{tmp_path.name}.*\(1 skipped\)'):
    sources.image_folder(path=tmp_path, size=8)


def test_a_missing_folder_is_an_error_that_names_it_and_the_setting(tmp_path):
  with pytest.raises(UserError, match='no image folder .*nowhere.*data.source.path'):
    sources.image_folder(path=tmp_path / 'nowhere', size=8)


def test_a_bad_row_of_the_metadata_is_named_by_its_line(tmp_path):
  fill(tmp_path, [dict(file_name='red.png')])
  with (tmp_path / 'metadata.jsonl').open('a') as file:
    file.write('{"file_name": \n')
  with pytest.raises(UserError, match='metadata.jsonl, line 2'):
    sources.image_folder(path=tmp_path, size=8)


def test_the_packaged_photographs_of_the_two_splits_are_disjoint():
  rows = [json.loads(row) for row in (sources.PHOTOS / 'metadata.jsonl').read_text().splitlines()]
  names = lambda split: {row['file_name'] for row in rows if row['split'] == split}
  assert names('train') and names('test') and not names('train') & names('test')
  assert all((sources.PHOTOS / row['file_name']).is_file() for row in rows)
  assert not sources.photos(split='test', size=64).skipped


def test_a_crop_depends_on_the_seed_and_its_number_alone():
  make = lambda seed: sources.photos(split='test', size=16, seed=seed)
  first, again, other = make(0), make(0), make(1)
  assert all(np.array_equal(first[i]['image'], again[i]['image']) for i in (0, 5, 3))
  assert not np.array_equal(first[0]['image'], other[0]['image'])


def test_a_mixture_takes_from_its_sources_in_turn():
  specs = [dict(name='scenes', size=8, start=start, length=3) for start in (0, 50)]
  mixed = sources.mixture(sources=specs)
  parts = [sources.scenes(size=8, start=start) for start in (0, 50)]
  assert len(mixed) == 6
  for index in range(6):
    expected = parts[index % 2][index // 2]
    assert np.array_equal(mixed[index]['image'], expected['image'])
