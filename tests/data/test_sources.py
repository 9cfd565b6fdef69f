import json
import logging
import pickle

import numpy as np
import pytest
from PIL import ExifTags, Image

from cdd import assets
from cdd.core.errors import UserError
from cdd.core.registry import bind
from cdd.data import SOURCES, sources, transforms
from cdd.data.sources import pictures

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
    assert sorted(source.skipped) == ['small.png', 'text.jpg']  # Their headers tell.
    assert seen(source) == {'': set(COLOURS.values())}
  assert sorted(source.skipped) == ['cut.png', 'small.png', 'text.jpg']
  assert 'Skipped 2 of 6 images in' in caplog.text
  assert len([r for r in caplog.records if r.message.startswith('Skipped')]) == 3 + 1


def test_a_row_whose_file_is_missing_is_skipped(tmp_path):
  rows = [dict(file_name=name) for name in (*COLOURS, 'gone.png')]
  skipped = sources.image_folder(path=fill(tmp_path, rows), size=8).skipped
  assert skipped == {'gone.png': 'there is no such file'}


def test_a_folder_of_corrupt_images_is_an_error_that_names_it(tmp_path):
  (tmp_path / 'a.png').write_bytes(b'\x89PNG nothing')
  with pytest.raises(UserError, match=rf'No image in .*{tmp_path.name}.*\(1 skipped\)'):
    sources.image_folder(path=tmp_path, size=8)


def test_a_folder_whose_images_are_all_cut_short_is_an_error_when_it_is_drawn_from(tmp_path):
  Image.effect_noise((64, 64), 50).save(tmp_path / 'a.png')
  whole = (tmp_path / 'a.png').read_bytes()
  (tmp_path / 'a.png').write_bytes(whole[: len(whole) // 2])
  source = sources.image_folder(path=tmp_path, size=8)
  said = r"No example of image_folder\('.*', .* used, a\.png being the last"
  with pytest.raises(UserError, match=said):
    source[0]


def test_a_photograph_taken_upright_stands_upright(tmp_path):
  lying = np.zeros((16, 24, 3), np.uint8)
  lying[:, :12] = 255  # Orientation 6: its left becomes the top.
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  for name in ('a.jpg', 'a.png', 'a.webp'):
    Image.fromarray(lying).save(tmp_path / name, exif=exif, quality=95)
    chosen = pictures.picture(name, dict(image=tmp_path / name), '', 8)
    assert chosen.sizes == [(16, 24)]
    upright = chosen.arrays(chosen.sizes[0])['image']
    assert upright.shape == (24, 16, 3)
    assert upright[:11].min() > 230 and upright[13:].max() < 25


def test_levels_are_the_image_and_smaller_ones_that_differ_and_leave_room():
  sides = [(2400, 1200), (1200, 600), (800, 400), (533, 266), (356, 178), (237, 118)]
  assert transforms.sizes(2400, 1200, 64) == sides
  assert transforms.sizes(1000, 1250, 400) == [(1000, 1250), (640, 800), (426, 533)]
  assert transforms.sizes(100, 90, 90) == [(100, 90)]


def test_a_source_holds_no_pixels_and_its_crops_do_not_depend_on_what_is_kept():
  source = sources.photos(split='train', size=16)
  assert len(pickle.dumps(source)) < 20_000  # What each worker gets.
  kept = [source[i]['image'] for i in range(8)]
  pictures.level.cache.clear()
  assert all(np.array_equal(source[i]['image'], kept[i]) for i in reversed(range(8)))


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
  rows = [json.loads(row) for row in (assets.PHOTOS / 'metadata.jsonl').read_text().splitlines()]
  names = lambda split: {row['file_name'] for row in rows if row['split'] == split}
  assert names('train') and names('test') and not names('train') & names('test')
  assert all((assets.PHOTOS / row['file_name']).is_file() for row in rows)
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


def test_a_caption_that_is_null_is_empty_and_text_that_is_not_utf8_is_named(tmp_path):
  fill(tmp_path, [dict(file_name='red.png', text=None)])
  assert seen(sources.image_folder(path=tmp_path, size=8), 3).keys() == {''}
  (tmp_path / 'metadata.jsonl').write_bytes(b'{"file_name": "red.png", "text": "\xff"}\n')
  with pytest.raises(UserError, match='metadata.jsonl is not UTF-8'):
    sources.image_folder(path=tmp_path, size=8)


def test_images_that_are_all_smaller_than_a_crop_are_called_too_small(tmp_path):
  for name, size in (('a.png', (40, 30)), ('b.png', (20, 90)), ('c.png', (9, 9))):
    Image.new('RGB', size).save(tmp_path / name)
  said = r'large enough for a crop of 64x64 pixels: the largest of 3 is 40x30; set .* to 30 or less'
  with pytest.raises(UserError, match=said):
    sources.image_folder(path=tmp_path, size=64)
  assert len(sources.image_folder(path=tmp_path, size=30).skipped) == 2
  (tmp_path / 'd.png').write_text('no image')
  with pytest.raises(UserError, match=r'is 40x30 \(1 more cannot be read\)'):
    sources.image_folder(path=tmp_path, size=64)


@pytest.mark.parametrize(
  'wrong',
  [
    dict(size=0),
    dict(size=-3),
    dict(size=8.5),
    dict(size=True),
    dict(size=(8, 0)),
    dict(size=(8, 8, 8)),
    dict(length=0),
    dict(seed=-1),
  ],
)
def test_a_size_a_length_or_a_seed_that_is_out_of_range_is_named(wrong):
  ((name, value),) = wrong.items()
  message = f'The {name} of a data source is {value}; it must be a whole number'
  with pytest.raises(UserError) as error:
    sources.photos(**(dict(split='test', size=8) | wrong))
  assert message in str(error.value)
  with pytest.raises(UserError) as error:
    sources.scenes(**(dict(size=8) | wrong))
  assert message in str(error.value)


def test_a_size_beyond_all_pictures_is_named():
  for make in (
    lambda size: sources.photos(split='test', size=size),
    lambda s: sources.scenes(size=s),
  ):
    with pytest.raises(UserError, match='size of a data source is 1000000; .* at most 65536'):
      make(10**6)


def test_what_is_counted_agrees_with_its_number(tmp_path, caplog):
  Image.new('RGB', (4, 4)).save(tmp_path / 'a.png')
  with caplog.at_level(logging.WARNING), pytest.raises(UserError):
    sources.image_folder(path=tmp_path, size=8)
  assert 'Skipped 1 of 1 image in' in caplog.text


def test_the_background_is_a_setting_of_the_source(tmp_path):
  Image.new('RGBA', (12, 12), (200, 10, 10, 0)).save(tmp_path / 'a.png')
  for settings, colour in (({}, 1), (dict(background='black'), 0)):
    example = sources.image_folder(path=tmp_path, size=8, **settings)[0]
    assert (example['image'] == colour).all()


def test_the_reason_is_said_when_no_picture_can_be_decoded(tmp_path):
  Image.fromarray(np.full((16, 16), 200, np.float32)).save(tmp_path / 'a.tif')
  source = sources.image_folder(path=tmp_path, size=8)
  with pytest.raises(UserError, match='a.tif being the last: its values go from 200 to 200'):
    source[0]


@pytest.mark.parametrize(
  'source',
  [
    dict(name='photos', split='test', size=32),
    dict(name='mixture', sources=[dict(name='photos', split='test', size=32)]),
    dict(name='scenes', size=32),
  ],
)
def test_a_source_that_lacks_what_the_task_reads_is_refused_with_what_it_has(source):
  with pytest.raises(UserError, match=r"The task reads 'mask'.* does not have; it has \['image'"):
    bind(SOURCES, source, 'source')(('image', 'mask'))


def test_scenes_give_edited_twins_where_the_task_reads_them():
  source = dict(name='scenes', size=16)
  plain = bind(SOURCES, source, 'source')()[0]
  edited = bind(SOURCES, source, 'source')(('image', 'edited_image'))[0]
  assert 'edited_image' not in plain and edited['instruction']
  np.testing.assert_array_equal(edited['image'], plain['image'])
