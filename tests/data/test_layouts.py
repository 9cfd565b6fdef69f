"""Every layout of files that docs/own_data.md shows, built and read; and what may be wrong."""

import json
import logging
import re

import aligned
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tiny import ROOT

from cdd.core.errors import UserError
from cdd.core.registry import bind
from cdd.data import SOURCES, sources
from cdd.data.arrays import ARRAYS
from cdd.data.sources import beside, layouts

BLOCKS = re.findall(
  r'```text\n(.*?)```\n\n```python\n(dict\(.*?\))  # reads: (.*?)\n```',
  (ROOT / 'docs/own_data.md').read_text(),
  re.S,
)
WHOLE = ('image', *[name for name in ARRAYS if name != 'image'])


def entries(tree):
  """(path, text) of every file of a tree as the page draws it."""
  found, folders = [], []
  for line in tree.splitlines():
    indent, (name, _, text) = len(line) - len(line.lstrip()), line.strip().partition(' ')
    if indent > 10:
      found[-1][1] += line.strip() + '\n'
    elif name.endswith('/'):
      folders = [*folders[: indent // 2], name]
    else:
      found.append([''.join([*folders[: indent // 2], name]), text.strip() + '\n'])
  return found


def kind(path):
  """The array that is drawn into a file, by the words of its path."""
  words = {word.rstrip('s') for word in re.split(r'[/._]', path)}
  if path.endswith('_1.jpg') or 'edited' in words:
    return 'edited_image'
  if 'source' in words:
    return 'condition'
  return next((name for name in ('depth', 'mask') if name in words), 'image')


def build(folder, tree):
  """Writes a tree; the texts in it."""
  texts = []
  for path, text in entries(tree):
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix in ('.jsonl', '.json', '.txt', '.csv'):
      place.write_text(text)
      texts.append(text)
    elif place.suffix == '.tar':
      names = text.split()
      extra = [(name, member(name)) for name in names]
      aligned.webdataset(place.parent, count=0, name=place.name, extra=extra)
      texts += [f'text of {name}' for name in names]
    elif place.suffix in ('.parquet', '.array_record'):
      columns = text.strip().split(', ')
      write = aligned.RECORDS[place.suffix[1:]]
      write(place.parent, count=3, name=place.name, columns=columns)
      texts += [f'number {number}' for number in range(3)]
    else:
      aligned.save(place, aligned.arrays()[kind(path)])
  return ' '.join(texts)


def member(name):
  """The bytes of a member of a shard."""
  text = f'text of {name}'
  if name.endswith('.json'):
    return json.dumps(dict(caption=text)).encode()
  return text.encode() if name.endswith('.txt') else aligned.encoded(aligned.arrays()[kind(name)])


@pytest.mark.parametrize(
  'tree, spec, reads', BLOCKS, ids=[block[0].split('/')[0] for block in BLOCKS]
)
def test_every_layout_of_the_page_is_read_as_it_says(tree, spec, reads, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  texts = build(tmp_path, tree)
  spec, needs = eval(spec), tuple(reads.split(', '))
  spec['path'] = str(tmp_path / spec['path'])
  source = bind(SOURCES, spec, 'source')(needs)
  size = spec['size'] if isinstance(spec['size'], tuple) else (spec['size'],) * 2
  captions = set()
  for index in range(30):
    example = source[index]
    aligned.check(example, needs, size)
    captions.add(example['caption'])
  assert not source.skipped
  assert all(caption in texts for caption in captions)
  several = bool(texts) and spec['name'] != 'instruct_pix2pix'
  assert len(captions) > several


def test_the_writing_of_array_records_is_as_the_page_says(tmp_path, monkeypatch):
  page = (ROOT / 'docs/own_data.md').read_text()
  (code,) = re.findall(r'```python\n(import msgpack\n.*?)```', page, re.S)
  monkeypatch.chdir(tmp_path)
  made = aligned.arrays(9)
  exec(
    code, dict(examples=[(aligned.encoded(made['image']), aligned.encoded(made['depth']), 'nine')])
  )
  needs = ('image', 'depth')
  source = bind(SOURCES, dict(name='array_record', path=str(tmp_path), size=12), 'source')(needs)
  assert aligned.check(source[0], needs, (12, 12)) == 9 and source[0]['caption'] == 'nine'


def test_the_page_shows_a_layout_for_every_array():
  assert len(BLOCKS) >= 6
  assert {name for *_, reads in BLOCKS for name in reads.split(', ')} == {*ARRAYS}


def test_the_page_lists_every_name_of_every_array():
  page = (ROOT / 'docs/own_data.md').read_text()
  for name, array in ARRAYS.items():
    assert f'| `{name}` | {", ".join(f"`{each}`" for each in array.names)} |' in page


def fill(folder, *rows, names=('a', 'b'), arrays=WHOLE):
  """name.ARRAY.png for every name and array, and a metadata.jsonl of rows."""
  for name in names:
    for array in arrays:
      end = '' if array == 'image' else f'.{array}'
      aligned.save(folder / f'{name}{end}.png', aligned.arrays()[array])
  if rows:
    (folder / 'metadata.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder


def read(folder, needs=WHOLE, **settings):
  return bind(SOURCES, dict(name='image_folder', path=folder, size=12, **settings), 'source')(needs)


@pytest.mark.parametrize('array', [name for name in ARRAYS if name != 'image'])
def test_a_column_may_have_every_name_of_its_array_or_the_one_that_is_set(array, tmp_path):
  fill(tmp_path, names='x')
  values = {'file_name': 'x.png', 'text': 't'}
  names = [name + end for name in ARRAYS[array].names for end in ('', '_file_name', '_path')]
  for name in [*names, names[0].upper()]:
    row = values | {name: f'x.{array}.png'}
    (tmp_path / 'metadata.jsonl').write_text(json.dumps(row) + '\n')
    (found,) = layouts.listing(tmp_path, ('image', array))
    assert found.files == {'image': 'x.png', array: f'x.{array}.png'} and found.caption == 't'
  (tmp_path / 'metadata.jsonl').write_text(json.dumps(values | dict(mine=f'x.{array}.png')))
  source = read(tmp_path, ('image', array), columns={array: 'mine'}, caption_column='text')
  aligned.check(source[0], ('image', array), (12, 12))
  config = ConfigDict(
    dict(name='image_folder', path=tmp_path, size=(12, 12), caption_column='text')
  )
  config.columns = {array: 'mine'}
  aligned.check(bind(SOURCES, config, 'source')(('image', array))[0], ('image', array), (12, 12))
  with pytest.raises(
    UserError, match=rf"no column 'yours' \(columns\['{array}'\]\); choose one of"
  ):
    read(tmp_path, ('image', array), columns={array: 'yours'})


@pytest.mark.parametrize('array', [name for name in ARRAYS if name != 'image'])
def test_a_folder_of_an_array_may_have_every_name_of_it(array, tmp_path):
  for number, name in enumerate(beside.folders(array)):
    folder = tmp_path / str(number)
    for image in ('a.png', 'more/b.jpg'):
      aligned.save(folder / 'images' / image, aligned.arrays()['image'])
      place = folder / name / image
      aligned.save(place.with_suffix('.png'), aligned.arrays()[array])
    found = [row.files for row in layouts.listing(folder, ('image', array))]
    paths = [('images/a.png', f'{name}/a.png'), ('images/more/b.jpg', f'{name}/more/b.png')]
    assert found == [{'image': image, array: path} for image, path in paths]
    # The same without images/: what is in the array's folder is still no image.
    for path in (folder / 'images').iterdir():
      path.rename(folder / path.name)
    assert [row.name for row in layouts.listing(folder)] == ['a.png', 'more/b.jpg']


def test_files_of_arrays_are_not_images_but_a_name_alone_makes_no_array(tmp_path):
  fill(tmp_path, names='ab')
  aligned.save(tmp_path / 'c.mask.png', aligned.arrays()['image'])
  aligned.save(tmp_path / 'a.mark.png', aligned.arrays()['image'])
  assert [row.name for row in layouts.listing(tmp_path)] == [
    'a.mark.png',
    'a.png',
    'b.png',
    'c.mask.png',
  ]


def test_a_folder_that_is_only_called_like_an_array_is_one_of_images(tmp_path):
  for name in ('mask/a.png', 'mask/b.png', 'hat/c.png'):
    aligned.save(tmp_path / name, aligned.arrays()['image'])
  assert [row.name for row in layouts.listing(tmp_path)] == [
    'hat/c.png',
    'mask/a.png',
    'mask/b.png',
  ]


def test_folders_in_folders_are_read_and_hidden_files_are_not(tmp_path):
  for name in ('z.png', 'cat/a.png', 'cat/more/b.png', '.x/c.png', '._a.png', '__MACOSX/d.png'):
    aligned.save(tmp_path / name, aligned.arrays()['image'])
  (tmp_path / 'loop').symlink_to(tmp_path)
  (tmp_path / 'cat' / 'a.txt').write_text('a cat')
  found = {row.name: row.caption for row in layouts.listing(tmp_path)}
  assert found == {'cat/a.png': 'a cat', 'cat/more/b.png': '', 'z.png': ''}


def test_a_split_may_be_a_folder(tmp_path):
  aligned.save(tmp_path / 'train' / 'a.png', aligned.arrays()['image'])
  fill(tmp_path / 'test', dict(file_name='a.png', text='held out'))
  assert read(tmp_path, ('image',), split='train')[0]['caption'] == ''
  assert read(tmp_path, ('image',), split='test')[0]['caption'] == 'held out'
  with pytest.raises(UserError, match="no metadata, and test in it has: .*split='test'"):
    read(tmp_path, ('image',))


def test_folders_of_splits_that_are_read_together_are_warned_of(tmp_path, caplog):
  for name in ('train/a.png', 'test/b.png'):
    aligned.save(tmp_path / name, aligned.arrays()['image'])
  with caplog.at_level(logging.WARNING):
    assert len(layouts.listing(tmp_path)) == 2
  assert "the folders test and train are read together; data.source.split='train'" in caplog.text


def test_where_an_array_was_looked_for_is_said_in_one_line(tmp_path):
  fill(tmp_path, arrays=('image',))
  said = r"the task reads 'depth', which none of 2 images has; looked for NAME.depth.\* beside"
  with pytest.raises(UserError, match=said) as error:
    read(tmp_path, ('image', 'depth'))
  assert 'a folder depth/' in str(error.value) and '\n' not in str(error.value)
  fill(tmp_path, dict(file_name='a.png', text='a', tiefe='a.png'), arrays=('image',))
  said = r"columns called .*'depth_map'\] \(there are .*'tiefe'\]\), or as .*columns=dict\(depth="
  with pytest.raises(UserError, match=said):
    read(tmp_path, ('image', 'depth'))
  with pytest.raises(UserError, match="reads 'normals'.* it has"):
    read(tmp_path, ('image', 'normals'))
  for columns in (dict(dephts='a'), 'depth'):
    with pytest.raises(UserError, match='Unknown array|must be as dict'):
      read(tmp_path, ('image', 'depth'), columns=columns)


def test_an_example_that_lacks_an_array_or_has_one_that_does_not_fit_is_skipped_and_named(
  tmp_path, caplog
):
  fill(tmp_path, names='abcde', arrays=('image', 'depth'))
  (tmp_path / 'a.depth.png').unlink()
  Image.new('L', (20, 20)).save(tmp_path / 'b.depth.png')
  (tmp_path / 'c.depth.png').write_text('no picture')
  Image.fromarray(aligned.arrays()['image']).save(tmp_path / 'd.depth.png')
  with caplog.at_level(logging.WARNING):
    source = read(tmp_path, ('image', 'depth'))
  assert source.skipped == {
    'a.png': 'it has no depth',
    'b.png': "its depth is 20x20 pixels, which is another aspect ratio than the image's 32x24",
    'c.png': 'its depth: it is no image, or one of an unknown kind',
  }
  for index in range(20):
    aligned.check(source[index], ('image', 'depth'), (12, 12))
  assert 'its channels differ' in source.skipped['d.png']


@pytest.mark.parametrize('path', ['../x.png', '/etc/x.png', 'y/../../x.png', r'C:\x.png', r'..\x'])
def test_no_array_may_leave_the_folder(path, tmp_path):
  fill(tmp_path, dict(file_name='a.png', text='', depth=path))
  with pytest.raises(UserError, match="line 1: 'depth' is .*; it must be a path below the folder"):
    read(tmp_path, ('image', 'depth'))


def test_a_link_to_a_file_is_followed(tmp_path):
  fill(tmp_path / 'there', names='a')
  (tmp_path / 'here').mkdir()
  for path in (tmp_path / 'there').iterdir():
    (tmp_path / 'here' / path.name).symlink_to(path)
  aligned.check(read(tmp_path / 'here')[0], WHOLE, (12, 12))


def test_an_instruction_is_the_caption_of_an_edit_and_of_nothing_else(tmp_path):
  row = dict(file_name='a.png', text='a cat', edit='make it a dog', edited='b.png')
  fill(tmp_path, row, arrays=('image',))
  assert read(tmp_path, ('image', 'edited_image'))[0]['caption'] == 'make it a dog'
  assert read(tmp_path, ('image',))[0]['caption'] == 'a cat'


def test_rows_of_prompt_json_are_a_condition_or_an_edit(tmp_path):
  row = dict(source='s.png', target='t.png', prompt='p')
  (tmp_path / 'prompt.json').write_text(json.dumps(row) + '\n')
  for needs, expected in (
    (('image', 'condition'), dict(image='t.png', condition='s.png')),
    (('image', 'edited_image'), dict(image='s.png', edited_image='t.png')),
    (('image',), dict(image='t.png')),
  ):
    assert [row.files for row in layouts.listing(tmp_path, needs)] == [expected]


def test_the_splits_of_instruct_pix2pix_are_those_of_its_code(tmp_path):
  aligned.instruct_pix2pix(tmp_path)
  make = lambda **settings: bind(
    SOURCES, dict(name='instruct_pix2pix', path=tmp_path, size=12, **settings), 'source'
  )(('image', 'edited_image'))
  for split, prompts in (('train', range(36)), ('val', range(36, 38)), ('test', range(38, 40))):
    source, seen = make(split=split), set()
    for index in range(60):
      example = source[index]
      number = aligned.check(example, ('image', 'edited_image'), (12, 12))
      assert example['caption'] == f'edit {number // 2:07}'
      seen.add(number // 2)
    assert seen <= {*prompts} and len(seen) > 0.6 * len(prompts)
  with pytest.raises(UserError, match=r"split 'dev'.*choose one of \['train', 'val', 'test'\]"):
    make(split='dev')
  (tmp_path / '0000038' / 'prompt.json').write_text('{')
  (tmp_path / '0000039' / '78_1.jpg').unlink()
  source = make(split='test')
  numbers = {aligned.check(source[i], ('image', 'edited_image'), (12, 12)) for i in range(20)}
  assert numbers == {79} and {*source.skipped} == {'0000038/76', '0000038/77', '0000039/78'}
  (tmp_path / 'seeds.json').write_text('[["../0000000", [1]]]')
  with pytest.raises(UserError, match='names .*0000000; it must be a path below'):
    make()
  (tmp_path / 'seeds.json').write_text('{"a": 3}')
  with pytest.raises(UserError, match='seeds.json must be'):
    make()


def test_a_folder_of_instruct_pix2pix_names_its_source(tmp_path):
  aligned.instruct_pix2pix(tmp_path, prompts=2)
  with pytest.raises(UserError, match="data.source.name to 'instruct_pix2pix'"):
    read(tmp_path, ('image',))


def test_a_source_without_flips_mirrors_nothing(tmp_path):
  fill(tmp_path)
  sides = {True: set(), False: set()}
  for flip, found in sides.items():
    source = sources.image_folder(path=tmp_path, size=12, flip=flip)
    for index in range(20):
      columns = source[index]['image'][0, :, 1]
      found.add(bool(columns[0] < columns[-1]))
  assert sides == {True: {True, False}, False: {True}}


def test_crops_may_be_rectangles(tmp_path):
  fill(tmp_path)
  for size in ((12, 30), (24, 10), [8, 8]):
    source = sources.image_folder(WHOLE, path=tmp_path, size=size)
    example = source[3]
    aligned.check(example, WHOLE, tuple(size))
    assert example['sizes'][[0, 1, 4, 5]].tolist() == [24, 32, *size]
  with pytest.raises(UserError, match='large enough for a crop of 10x30 pixels: .*32x24'):
    sources.image_folder(path=tmp_path, size=(30, 10))
  assert np.array_equal(
    sources.image_folder(path=tmp_path, size=12)[5]['image'],
    sources.image_folder(path=tmp_path, size=(12, 12))[5]['image'],
  )


def test_a_folder_without_splits_holds_out_one_in_twenty_always_the_same(tmp_path):
  for index in range(41):
    Image.new('RGB', (8, 8), (6 * index, 0, 0)).save(tmp_path / f'{index}.png')
    (tmp_path / f'{index}.txt').write_text(f'number {index}')

  def seen(part):
    source = SOURCES['image_folder'](path=tmp_path, size=8, part=part)
    return {source[index]['caption'] for index in range(600)}

  test, train = seen('test'), seen('train')
  assert len(test) == 2 and test == seen('test') and not test & train
  assert train | test == seen(None) and len(train | test) == 41
  with pytest.raises(UserError, match="Unknown part of a folder 'tset'; choose one of"):
    seen('tset')


def test_one_image_cannot_be_trained_on_and_held_out(tmp_path):
  for count in ('0 images', '1 image'):
    with pytest.raises(UserError, match=f'{tmp_path} has {count}; it needs two or more for one to'):
      SOURCES['image_folder'](path=tmp_path, size=8, part='test')
    Image.new('RGB', (8, 8), (200, 0, 0)).save(tmp_path / 'a.png')


def test_a_path_without_a_name_is_no_folder():
  with pytest.raises(UserError, match="There is no image folder ''"):
    SOURCES['image_folder'](path='', size=8)
