"""The table of photographs, and what is refused of what a package holds."""

import hashlib
import io
import re

import pytest
from PIL import Image

from benchmarks import photos
from cdd.data.sources import image_folder


def png(width, height):
  """A PNG's bytes."""
  file = io.BytesIO()
  Image.effect_noise((width, height), 60).convert('RGB').save(file, 'png')
  return file.getvalue()


def row(data, **fields):
  plain = dict(folder='natural', client='apt', package='p', file='a/b.png', licence='CC0')
  plain |= dict(sha256=hashlib.sha256(data).hexdigest(), split='train', caption='a photo of noise')
  return photos.Picture(**plain | fields)


def test_every_row_of_the_table_is_complete_and_no_file_meets_another():
  rows = photos.table()
  assert len(rows) > 500
  assert len({(one.folder, one.name) for one in rows}) == len(rows)
  for one in rows:
    assert one.client in photos.COMMANDS and one.split in ('train', 'test') and one.licence
    assert re.fullmatch('[0-9a-f]{16}', one.sha256)
    assert one.caption.startswith('a photo of ')


def test_a_written_photograph_is_read_by_the_image_folder_with_its_caption(tmp_path):
  data = png(2000, 1000)
  (tmp_path / 'natural').mkdir()
  one = row(data)
  photos.reduce(one, data, tmp_path / 'natural' / one.name)
  photos.describe([one, row(b'missing')], tmp_path)
  with Image.open(tmp_path / 'natural' / one.name) as image:
    assert image.size == (photos.LONGEST, photos.LONGEST // 2)
  source = image_folder(path=tmp_path / 'natural', size=32, split='train')
  assert source[0]['caption'] == 'a photo of noise'


def test_another_file_under_the_same_name_is_refused(tmp_path):
  with pytest.raises(ValueError, match='its sha256 is .*, not 0000'):
    photos.reduce(row(b'', sha256='0' * 16), png(8, 8), tmp_path / 'a.jpg')
  assert not (tmp_path / 'a.jpg').exists()


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path, monkeypatch):
  monkeypatch.setattr(photos, 'MOST', 99)
  data = png(10, 10)
  with pytest.raises(ValueError, match='10x10 pixels are more than 99'):
    photos.reduce(row(data), data, tmp_path / 'a.jpg')
  assert not (tmp_path / 'a.jpg').exists()


def test_what_is_there_is_not_fetched_again_and_what_fails_is_named(tmp_path, monkeypatch):
  data = png(64, 64)
  (tmp_path / 'natural').mkdir()
  there, gone = row(data), row(b'gone', package='q', file='c.png')
  photos.reduce(there, data, tmp_path / 'natural' / there.name)
  monkeypatch.setitem(photos.COMMANDS, 'apt', ('false',))
  assert photos.fetch([there], tmp_path) == []
  assert re.match('q: false q failed', photos.fetch([gone], tmp_path)[0])
