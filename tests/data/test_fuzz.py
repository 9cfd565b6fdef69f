"""Random damage to images, arrays, captions, metadata and records: examples come out, or one line.

CDD_FUZZ=2000 runs as many cases of each kind; CDD_FUZZ_SEED takes others.
"""

import functools
import io
import json
import os
import re
import tempfile
import warnings
from pathlib import Path

import aligned
import numpy as np
import OpenEXR
import pytest
from PIL import ExifTags, Image

from cdd.core.errors import UserError
from cdd.data import TASKS, arrays, images, sources, transforms
from cdd.sample import condition, picture

CASES = int(os.environ.get('CDD_FUZZ', '150'))
SEED = int(os.environ.get('CDD_FUZZ_SEED', '0'))
SIZE = 8
BATCH = 50  # Cases of a test, so that one that fails is found.
BATCHES = [range(start, min(start + BATCH, CASES)) for start in range(0, CASES, BATCH)]
# What a message must not hold: the class of an exception, or where an object lies in memory.
PYTHON = re.compile(r'\b\w*(Error|Exception)\b|\bobject at 0x')
MODES = dict(
  png=('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'),
  tiff=('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16', 'I', 'F', 'CMYK', 'LAB'),
  jpeg=('L', 'RGB', 'CMYK'),
  webp=('RGB', 'RGBA'),
  bmp=('1', 'L', 'P', 'RGB'),
  gif=('L', 'P'),
)
WORDS = (
  'a',
  'red',
  'ball',
  '',
  'é',
  '赤い',
  '\u2028',
  '\x85',
  '"',
  ',',
  ';',
  '\n',
  '\t',
  '\x00',
  '﻿',
)
NAMES = ('a.png', 'b.png', 'gone.png', '../a.png', '/a.png', '', '.', 'a.png/', 'x' * 300, '\x00')
KEYS = ('file_name', 'text', 'caption', 'prompt', 'split', 'other', 'File_Name', '')


def choice(rng, values):
  return values[int(rng.integers(len(values)))]


@functools.cache
def encoded(kind, mode, orientation):
  """The bytes of a whole picture."""
  rng = np.random.default_rng(7)
  if mode in ('F', 'I', 'I;16'):
    words = rng.integers(0, 65536, (14, 21))
    types = {'F': np.float32, 'I': np.int32, 'I;16': np.uint16}
    made = Image.fromarray((words / (65535 if mode == 'F' else 1)).astype(types[mode]))
  else:
    plain = Image.fromarray(rng.integers(0, 256, (14, 21, 4)).astype(np.uint8))
    if mode == 'LAB':
      made = Image.merge('LAB', plain.split()[:3])
    else:
      plain = plain if 'A' in mode else plain.convert('RGB')
      made = plain.convert(mode)
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  turned = dict(tiff=dict(tiffinfo={274: orientation}), bmp={}, gif={}).get(kind, dict(exif=exif))
  file = io.BytesIO()
  made.save(file, kind, **turned)
  return file.getvalue()


def damaged(data, rng):
  """Bytes changed, cut, removed or added; a third stays whole."""
  data = bytearray(data)
  for _ in range(int(rng.integers(0, 3))):
    at = int(rng.integers(len(data) + 1)) if rng.random() < 0.5 else int(rng.integers(64))
    at, some = min(at, len(data)), rng.bytes(int(rng.integers(1, 9)))
    how = int(rng.integers(4))
    if how == 0:
      data[at : at + len(some)] = some
    elif how == 1:
      data = data[:at]
    elif how == 2:
      del data[at : at + len(some)]
    else:
      data[at:at] = some
  return bytes(data)


def said(call):
  """What a call returns, or None if it raises one line for a user."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Pillow's, of damaged files.
      return call()
  except UserError as error:
    message = str(error)
    assert message and message.isprintable() and not PYTHON.search(message), message
    assert len(message) < 1000, message
    return None


def check(example):
  image, caption = example['image'], example['caption']
  assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.float32
  assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
  assert isinstance(caption, str) and caption.encode() is not None


def drawn(folder, count=2, **settings):
  """The first examples of a folder, checked; how many there were."""
  source = said(lambda: sources.image_folder(path=folder, size=SIZE, **settings))
  made = [said(lambda i=i: source[i]) for i in range(count)] if source else []
  for example in made:
    if example is not None:
      check(example)
  return sum(example is not None for example in made)


@pytest.fixture(autouse=True)
def quiet(caplog):
  """Warnings are one line each too."""
  yield
  for record in caplog.get_records('call'):
    if record.name == 'root':
      assert record.getMessage().isprintable(), record.getMessage()


@pytest.mark.parametrize('cases', BATCHES, ids=str)
def test_a_damaged_image_gives_a_picture_or_one_line(cases, tmp_path):
  for case in cases:
    rng = np.random.default_rng((SEED, 1, case))
    kind = choice(rng, sorted(MODES))
    whole = encoded(kind, choice(rng, MODES[kind]), int(rng.integers(0, 10)))
    path = tmp_path / f'{case}.png'  # Pillow goes by what is in it.
    path.write_bytes(damaged(whole, rng))
    folder = tmp_path / f'{case}'
    folder.mkdir()
    path.rename(folder / 'a.png')
    drawn(folder)
    opened = said(lambda: picture(str(folder / 'a.png')))  # noqa: B023
    if opened is None:
      continue
    for name in ('depth', 'text_to_image'):
      made = said(lambda: condition('a.png', opened, TASKS[name]()))  # noqa: B023
      if made is not None:
        assert made.ndim == 3 and made.shape[2] == 3 and made.dtype == np.float32
        assert np.isfinite(made).all() and made.min() >= 0 and made.max() <= 1


def text(rng):
  return ' '.join(choice(rng, WORDS) for _ in range(int(rng.integers(0, 5))))


def value(rng, depth=0):
  """A value of JSON."""
  plain = [None, True, 0, -1.5, 1e300, float('nan'), 10**30, '', text(rng), choice(rng, NAMES)]
  if depth < 2:
    plain += [[value(rng, depth + 1) for _ in range(int(rng.integers(0, 3)))]]
    plain += [{choice(rng, KEYS): value(rng, depth + 1)}]
  return choice(rng, plain)


def row(rng):
  """A row of metadata, mostly as it should be."""
  fields = dict(file_name='a.png', text=text(rng))
  for _ in range(int(rng.integers(0, 3))):
    fields[choice(rng, KEYS)] = value(rng)
  if rng.random() < 0.1:
    fields.pop(choice(rng, list(fields)))
  return fields if rng.random() < 0.95 else value(rng)


def metadata(rng):
  """(name, bytes) of a metadata file; half are damaged."""
  rows = [row(rng) for _ in range(int(rng.integers(0, 4)))]
  if rng.random() < 0.5:
    name = choice(rng, ('metadata.jsonl', 'captions.jsonl'))
    lines = [json.dumps(fields, ensure_ascii=bool(rng.random() < 0.5)) for fields in rows]
  else:
    name, between = choice(rng, ('metadata.csv', 'captions.csv')), choice(rng, (',', ';', '\t'))
    columns = [choice(rng, KEYS) for _ in range(int(rng.integers(0, 3)))]
    columns = ['file_name', 'text', *columns] if rng.random() < 0.9 else columns
    cell = lambda fields, key: fields.get(key, '') if isinstance(fields, dict) else fields
    rows = [[str(cell(fields, key)) for key in columns] for fields in rows]
    quote = lambda t: '"' + t.replace('"', '""') + '"' if rng.random() < 0.7 else t
    lines = [between.join(map(quote, cells)) for cells in [columns, *rows]]
  encoding = choice(rng, ('utf-8', 'utf-8', 'utf-8-sig', 'utf-16'))
  data = choice(rng, ('\n', '\r\n', '\n\n')).join(lines).encode(encoding)
  return name, damaged(data, rng) if rng.random() < 0.5 else data


@pytest.mark.parametrize('cases', BATCHES, ids=str)
def test_damaged_metadata_gives_examples_or_one_line(cases, tmp_path):
  (tmp_path / 'outside.png').write_bytes(encoded('png', 'RGB', 1))
  good = 0
  for case in cases:
    rng = np.random.default_rng((SEED, 2, case))
    folder = tmp_path / f'{case}'
    folder.mkdir()
    for name in 'ab':
      (folder / f'{name}.png').write_bytes(encoded('png', 'RGB', 1))
    name, data = metadata(rng)
    (folder / name).write_bytes(data)
    column, split = choice(rng, (None, None, None, '', 'text', 'x')), choice(rng, (None, None, 'a'))
    good += drawn(folder, caption_column=column, split=split)
  assert good  # Most are sound enough.


@pytest.mark.parametrize('cases', BATCHES, ids=str)
def test_damaged_texts_beside_images_give_examples_or_one_line(cases, tmp_path):
  good = 0
  for case in cases:
    rng = np.random.default_rng((SEED, 3, case))
    folder = tmp_path / f'{case}'
    folder.mkdir()
    (folder / 'a.png').write_bytes(encoded('png', 'RGB', 1))
    beside = text(rng).encode(
      choice(rng, ('utf-8', 'utf-8', 'utf-8-sig', 'latin-1', 'utf-16')), 'replace'
    )
    (folder / f'a{choice(rng, (".txt", ".caption"))}').write_bytes(damaged(beside, rng))
    good += drawn(folder)
  assert good


@functools.cache
def numbers(kind):
  """The bytes of a whole file of numbers."""
  values = np.random.default_rng(7).uniform(0, 1, (14, 21)).astype(np.float32)
  file = io.BytesIO()
  if kind == 'npy':
    np.save(file, values)
  elif kind == 'npz':
    np.savez_compressed(file, depth=values, other=values[0])
  else:
    with tempfile.NamedTemporaryFile(suffix='.exr') as written:
      header = dict(compression=OpenEXR.ZIP_COMPRESSION, type=OpenEXR.scanlineimage)
      OpenEXR.File(header, dict(Z=values)).write(written.name)
      return Path(written.name).read_bytes()
  return file.getvalue()


@pytest.mark.parametrize('cases', BATCHES, ids=str)
def test_a_damaged_array_gives_numbers_or_one_line(cases):
  good = 0
  for case in cases:
    rng = np.random.default_rng((SEED, 4, case))
    kind = choice(rng, (*MODES, 'npy', 'npz', 'exr'))
    whole = encoded(kind, choice(rng, MODES[kind]), 1) if kind in MODES else numbers(kind)
    data, name = damaged(whole, rng), choice(rng, list(arrays.ARRAYS))
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        size, made = arrays.size(data, name), arrays.read(data, name)
    except images.Unreadable as error:
      message = str(error)
      assert message and message.isprintable() and not PYTHON.search(message), message
      assert len(message) < 500, message
      continue
    good += 1
    assert made.shape[1::-1] == size and made.dtype == (np.float32 if made.ndim == 2 else np.uint8)
    assert name == 'depth' or np.isfinite(made).all()
  assert good


@pytest.mark.parametrize('kind', ['array_record', 'parquet', 'webdataset'])
def test_a_damaged_file_of_records_gives_examples_or_one_line(kind, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(transforms, 'DRAWS', 20)
  path = aligned.RECORDS[kind](tmp_path, count=3)['path']
  whole, good = path.read_bytes(), 0
  for case in range(CASES // 5):
    rng = np.random.default_rng((SEED, 5, case))
    part = tmp_path / f'{case}{path.suffix}'
    part.write_bytes(damaged(whole, rng))
    make = lambda: sources.SOURCES[kind](('image', 'mask'), path=part, size=SIZE)  # noqa: B023
    source = said(make)
    for index in range(3):
      example = said(lambda: source[index]) if source else None  # noqa: B023
      if example is not None:
        check(example)
        good += 1
  assert good


def test_what_is_whole_is_read(tmp_path):
  """The pictures that are damaged above are sound before; 32 bits alone have no known white."""
  for kind, modes in MODES.items():
    for mode in modes:
      (tmp_path / 'a').write_bytes(encoded(kind, mode, 6))
      opened = images.opened(tmp_path / 'a')
      if (kind, mode) != ('tiff', 'I'):
        assert images.rgb(opened).size == images.size(tmp_path / 'a')
