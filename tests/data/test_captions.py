"""Where the captions of an image folder may be, and how mistakes in them are said."""

import json
import logging

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from cdd.core.errors import UserError
from cdd.data import sources
from cdd.data.sources import layouts


@pytest.fixture
def folder(tmp_path):
  """Two pictures of noise, a.png and b.png."""
  for name in 'ab':
    Image.effect_noise((24, 16), 80).convert('RGB').save(tmp_path / f'{name}.png')
  return tmp_path


def found(folder, **settings):
  """{file: its caption}."""
  return {row.name: row.caption for row in layouts.listing(folder, **settings)}


def write(folder, name, *lines, encoding='utf-8'):
  (folder / name).write_text(''.join(line + '\n' for line in lines), encoding)


BOTH = {'a.png': 'a red ball', 'b.png': 'dusk, at sea'}


@pytest.mark.parametrize('column', ['text', 'caption', 'prompt', 'additional_feature', 'Caption'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_captions_are_read_under_every_usual_name(column, encoding, folder):
  rows = [json.dumps({'file_name': name, column: text}) for name, text in BOTH.items()]
  write(folder, 'metadata.jsonl', *rows, encoding=encoding)
  assert found(folder) == BOTH
  (folder / 'metadata.jsonl').unlink()
  for name in ('metadata.csv', 'captions.csv'):
    write(folder, name, f'file_name,{column}', 'a.png,a red ball', 'b.png,"dusk, at sea"')
    assert found(folder) == BOTH
    (folder / name).unlink()


def test_metadata_may_be_a_parquet_file(folder):
  rows = [dict(file_name=name, text=[text], split='train') for name, text in BOTH.items()]
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / 'metadata.parquet')
  assert found(folder, split='train') == BOTH
  rows = [dict(rows[0], file_name='../a.png')]
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / 'metadata.parquet')
  with pytest.raises(UserError, match='metadata.parquet, row 0: .*must be a path below'):
    found(folder)
  write(folder, 'metadata.parquet', 'no table')
  with pytest.raises(UserError, match='metadata.parquet cannot be read: '):
    found(folder)


@pytest.mark.parametrize('delimiter', [',', ';', '\t', '|'])
def test_a_table_may_have_any_usual_delimiter_line_ends_and_empty_lines(delimiter, folder):
  lines = ['', 'image|caption|split', '', 'a.png|a red ball|train', '||', 'b.png|"dusk, at sea"|x']
  text = '\r\n'.join(lines).replace('|', delimiter) + '\r\n\r\n'
  (folder / 'captions.csv').write_bytes(text.encode('utf-8-sig'))
  assert found(folder) == BOTH
  assert found(folder, split='train') == {'a.png': 'a red ball'}


def test_a_caption_may_lie_beside_its_image(folder):
  (folder / 'a.caption').write_bytes('﻿a red ball\r\n'.encode())
  (folder / 'b.txt').write_text('dusk, at sea\n')
  assert found(folder) == BOTH
  assert found(folder, column='') == {'a.png': '', 'b.png': ''}
  # A metadata file that has only splits leaves the captions there.
  write(folder, 'metadata.csv', 'file_name,split', 'a.png,train', 'b.png,train')
  assert found(folder, split='train') == BOTH


def test_the_setting_names_the_column_and_the_source_gives_its_captions(folder):
  rows = [dict(file_name=name, text='no', blip=text) for name, text in BOTH.items()]
  write(folder, 'metadata.jsonl', *map(json.dumps, rows))
  source = sources.image_folder(path=folder, size=8, caption_column='blip')
  assert {source[index]['caption'] for index in range(30)} == {*BOTH.values()}
  with pytest.raises(UserError, match=r"no column 'blop' .*choose .*\['file_name', 'text', 'blip"):
    sources.image_folder(path=folder, size=8, caption_column='blop')
  assert {*found(folder, column='').values()} == {''}


def test_a_metadata_file_without_a_known_column_lists_those_it_has(folder):
  write(folder, 'metadata.csv', 'file_name,blip', 'a.png,a red ball')
  with pytest.raises(UserError, match=r"metadata.csv: none .*caption_column to one of \['blip'\]"):
    found(folder)
  write(folder, 'metadata.csv', 'picture,text', 'a.png,a red ball')
  with pytest.raises(UserError, match=r"none .* 'file_name'; there are \['picture', 'text'\]"):
    found(folder)


def test_a_caption_of_several_is_drawn_by_the_example(folder):
  several = ['one', 'two', 3, None]
  write(folder, 'metadata.jsonl', json.dumps(dict(file_name='a.png', text=several)))
  make = lambda: sources.image_folder(path=folder, size=8)
  drawn = [make()[index]['caption'] for index in range(60)]
  assert drawn == [make()[index]['caption'] for index in range(60)]
  assert {text: drawn.count(text) > 8 for text in drawn} == dict.fromkeys(['one', 'two', '3'], True)
  # The pictures are those that one caption would leave.
  first = make()[5]['image']
  write(folder, 'metadata.jsonl', json.dumps(dict(file_name='a.png', text='one')))
  np.testing.assert_array_equal(make()[5]['image'], first)


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (None, ''),
    ([], ''),
    ([None, ''], ''),
    (1984, '1984'),
    (['one'], 'one'),
    ('a\u2028b', 'a\u2028b'),
  ],
)
def test_a_caption_may_be_null_a_number_a_list_or_hold_a_line_separator(text, expected, folder):
  row = json.dumps(dict(file_name='a.png', text=text), ensure_ascii=False)
  write(folder, 'metadata.jsonl', '', row, '  ')
  assert found(folder) == {'a.png': expected}


def test_half_a_surrogate_pair_does_not_reach_the_tokenizer(folder):
  write(folder, 'metadata.jsonl', r'{"file_name": "a.png", "text": "a \ud83d ball"}')
  assert found(folder) == {'a.png': 'a ? ball'}


@pytest.mark.parametrize(
  ('row', 'said'),
  [
    ('{"text": "a"}', "line 2: 'file_name' is missing; there are ['text']"),
    ('{"file_name": null}', "line 2: 'file_name' is null; it must name an image file"),
    ('{"file_name": 3}', "line 2: 'file_name' is 3; it must name an image file"),
    ('{"file_name": ""}', 'line 2: \'file_name\' is ""; it must name an image file'),
    ('["a.png", "a"]', 'line 2: a row is an object, as {"file_name": "a.png", "text": "a dog"}'),
    ('{"file_name": ', 'line 2 is not JSON: Expecting value at column'),
    ('[' * 100_000, 'line 2 cannot be read as JSON'),
    ('1' * 10_000, 'line 2 cannot be read as JSON'),
    ('{"file_name": "a.png", "text": {"en": "a"}}', 'line 2: \'text\' is {"en": "a"}; it must be'),
    ('{"file_name": "a.png", "text": true}', "line 2: 'text' is true; it must be a text, a list"),
    ('{"file_name": "/etc/a.png"}', 'line 2: \'file_name\' is "/etc/a.png"; it must be a path'),
    ('{"file_name": "../a.png"}', '"../a.png"; it must be a path below the folder, without ..'),
    ('{"file_name": "x/../../a.png"}', '"x/../../a.png"; it must be a path below'),
    (r'{"file_name": "..\\a.png"}', 'it must be a path below the folder'),
    (r'{"file_name": "C:\\a.png"}', 'it must be a path below the folder'),
  ],
)
def test_a_mistake_in_a_row_is_one_line_that_names_the_line_and_the_value(row, said, folder):
  write(folder, 'metadata.jsonl', '{"file_name": "b.png", "text": "b"}', row)
  with pytest.raises(UserError) as error:
    sources.image_folder(path=folder, size=8)
  message = str(error.value)
  assert said in message and len(message.splitlines()) == 1
  assert 'Error' not in message and len(message) < 600


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    ('a.png,a ball, red', 'line 2: 3 values for 2 columns, .*quotes'),
    ('a.png,"a ball', 'line 2: .*is a quote missing'),
    (',a ball', 'line 2: \'file_name\' is ""'),
    ('../a.png,a ball', 'line 2: .*below the folder'),
  ],
)
def test_a_mistake_in_a_table_names_its_line(line, said, folder):
  write(folder, 'metadata.csv', 'file_name,text', line)
  with pytest.raises(UserError, match=f'metadata.csv, {said}'):
    found(folder)


def test_an_unknown_split_and_a_file_without_rows_are_said(folder):
  write(folder, 'metadata.jsonl', '{"file_name": "a.png", "split": "train"}')
  with pytest.raises(UserError, match=r"split 'trian' .*choose one of \['train'\]"):
    found(folder, split='trian')
  write(folder, 'metadata.jsonl', '')
  with pytest.raises(UserError, match='metadata.jsonl has no rows'):
    found(folder)
  (folder / 'metadata.jsonl').unlink()
  for settings in (dict(split='train'), dict(column='blip')):
    with pytest.raises(UserError, match='metadata.jsonl is missing'):
      found(folder, **settings)


def test_text_of_another_encoding_is_named(folder):
  (folder / 'a.txt').write_bytes(b'caf\xe9')
  with pytest.raises(UserError, match=r'a.txt is not UTF-8 \(byte 3 is 0xe9\); save it as UTF-8'):
    found(folder)
  (folder / 'metadata.csv').write_text('file_name,text\na.png,b\n', 'utf-16')
  with pytest.raises(UserError, match='metadata.csv is not UTF-8'):
    found(folder)


def test_a_folder_whose_captions_are_all_empty_says_so_in_one_line(folder, caplog):
  with caplog.at_level(logging.WARNING):
    sources.image_folder(path=folder, size=8, caption_column='')
    assert not caplog.records
    sources.image_folder(path=folder, size=8)
    (record,) = caplog.records
    assert 'All captions of' in record.getMessage() and 'metadata.jsonl' in record.getMessage()
    (folder / 'a.txt').write_text('a ball')
    sources.image_folder(path=folder, size=8)
    assert len(caplog.records) == 1


def test_a_very_long_file_name_is_skipped_and_not_a_traceback(folder):
  long = 'x' * 251 + '.png'
  Image.open(folder / 'a.png').save(folder / long)
  assert found(folder)[long] == ''
  write(folder, 'metadata.jsonl', *(json.dumps(dict(file_name=n)) for n in ('a.png', 'y' * 300)))
  assert sources.image_folder(path=folder, size=8).skipped == {'y' * 300: 'file name too long'}
