"""Examples whose arrays say where every pixel lies, so that a crop shows whether they fit."""

import contextlib
import io
import json
import tarfile

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32


def arrays(number=0):
  """name -> an array as it is written: image uint8 [h, w, 3] and others that follow from it."""
  rows, columns = np.mgrid[:HEIGHT, :WIDTH]
  image = np.stack([10 * rows, 7 * columns, np.full_like(rows, number)], -1).astype(np.uint8)
  return dict(
    image=image,
    edited_image=255 - image,
    condition=image[..., ::-1].copy(),
    depth=(100 * rows + columns + 1).astype(np.uint16),
    mask=(255 * (columns % 2)).astype(np.uint8),
  )


def save(path, array):
  """Writes an array as the suffix of a path says."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.npy':
    np.save(path, array)
  elif path.suffix == '.npz':
    np.savez(path, array)
  else:
    # Exactly, under any name: readers go by what is in a file.
    Image.fromarray(array).save(path, 'TIFF' if path.suffix == '.tif' else 'PNG')


def check(example, needs, size):
  """Asserts that an example has what is needed, all of one place; returns its number."""
  assert {*needs, 'caption', 'sizes'} == {*example}
  levels = 255 * example['image']
  assert example['image'].dtype == np.float32 and levels.shape == (*size, 3)
  rows, columns, number = np.round(levels).astype(int).transpose(2, 0, 1)
  rows, columns = np.round(rows / 10).astype(int), np.round(columns / 7).astype(int)
  np.testing.assert_allclose(levels[..., 0], 10 * rows, atol=1e-4)
  assert (np.diff(rows, axis=0) == 1).all() and (abs(np.diff(columns, axis=1)) == 1).all()
  expected = dict(
    edited_image=1 - example['image'],
    condition=example['image'][..., ::-1],
    depth=100 * rows + columns + 1,
    mask=columns % 2,
  )
  for name in {*needs} - {'image'}:
    assert example[name].dtype == np.float32
    np.testing.assert_allclose(example[name], expected[name], atol=1e-6, err_msg=name)
  return int(np.median(number))


def instruct_pix2pix(folder, prompts=40):
  """InstructPix2Pix's layout; the pairs of prompt n are 2n and 2n + 1. The settings to read it."""
  seeds = [[f'{number:07}', [2 * number, 2 * number + 1]] for number in range(prompts)]
  for name, pair in seeds:
    for number in pair:
      save(folder / name / f'{number}_0.jpg', arrays(number)['image'])
      save(folder / name / f'{number}_1.jpg', arrays(number)['edited_image'])
    words = dict(input=f'a {name}', output='b', edit=f'edit {name}')
    (folder / name / 'prompt.json').write_text(json.dumps(words))
  (folder / 'seeds.json').write_text(json.dumps(seeds))
  return dict(path=folder)


def encoded(array):
  """The bytes of a PNG."""
  file = io.BytesIO()
  Image.fromarray(array).save(file, 'PNG')
  return file.getvalue()


def records(count, start=0, columns=None):
  """[name -> PNG bytes, and a caption]: record n is the example of number n; or some columns."""
  made = ({name: encoded(a) for name, a in arrays(start + n).items()} for n in range(count))
  rows = [dict(each, text=f'number {start + n}') for n, each in enumerate(made)]
  for row in rows:
    row['conditioning_image'] = row.get('condition')
  return [{k: v for k, v in row.items() if k in (columns or {*arrays(), 'text'})} for row in rows]


def parquet(folder, count=10, start=0, name='a.parquet', columns=None, **settings):
  """Hugging Face's columns: images are {bytes, path}."""
  import pyarrow
  import pyarrow.parquet

  rows = [
    {k: v if k == 'text' else dict(bytes=v, path=None) for k, v in row.items()}
    for row in records(count, start, columns)
  ]
  table = pyarrow.Table.from_pylist(rows)
  if name.endswith('.arrow'):
    opened = settings.get('opened', pyarrow.ipc.new_stream)
    with opened(str(folder / name), table.schema) as writer:
      writer.write_table(table, max_chunksize=3)
  else:
    pyarrow.parquet.write_table(table, folder / name, row_group_size=3)
  return dict(path=folder / name)


def array_record(
  folder, count=10, start=0, name='a.array_record', columns=None, options='group_size:1'
):
  """MessagePack maps."""
  import msgpack
  from array_record.python.array_record_module import ArrayRecordWriter

  writer = ArrayRecordWriter(str(folder / name), options)
  for record in records(count, start, columns):
    writer.write(msgpack.packb(record))
  writer.close()
  return dict(path=folder / name)


def webdataset(folder, count=10, start=0, name='a.tar', extra=()):
  """A tar shard; `extra`: (name, bytes) of further members."""
  with tarfile.open(folder / name, 'w') as archive:
    members = list(extra)
    for number, record in enumerate(records(count, start)):
      key = f'more/{number:04}'
      members += [(f'{key}.png', record['image']), (f'{key}.txt', record['text'].encode())]
      others = {*record} - {'image', 'text'}
      members += [(f'{key}.{array}.png', record[array]) for array in sorted(others)]
    for member, data in members:
      info = tarfile.TarInfo(member)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return dict(path=folder / name)


def tfds(folder, count=10, start=0, name='aligned', file_format='array_record'):
  """A data set written by TensorFlow Datasets, without TensorFlow: pictures are given as files."""
  import tensorflow_datasets

  features = tensorflow_datasets.features
  picture = features.Image(shape=(HEIGHT, WIDTH, 3))
  deep = features.Image(shape=(HEIGHT, WIDTH, 1), dtype=np.uint16)
  plain = features.Image(shape=(HEIGHT, WIDTH, 1))
  kinds = dict(image=picture, edited_image=picture, condition=picture, depth=deep, mask=plain)

  class Aligned(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
    """Examples of every array."""

    VERSION = tensorflow_datasets.core.Version('1.0.0')

    def _info(self):
      known = features.FeaturesDict(dict(kinds, text=features.Text()))
      return tensorflow_datasets.core.DatasetInfo(builder=self, features=known)

    def _split_generators(self, manager):
      return dict(train=self._generate_examples())

    def _generate_examples(self):
      for number, record in enumerate(records(count, start)):
        yield number, {k: v if k == 'text' else io.BytesIO(v) for k, v in record.items()}

  Aligned.name = name
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    Aligned(data_dir=folder, file_format=file_format).download_and_prepare()
  return dict(dataset=name, data_dir=str(folder))


RECORDS = dict(array_record=array_record, parquet=parquet, tfds=tfds, webdataset=webdataset)
# Name of a source that reads files -> what writes some into a folder and gives its settings.
WRITTEN = dict(RECORDS, instruct_pix2pix=instruct_pix2pix)
