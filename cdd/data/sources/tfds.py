"""Owns data sets of TensorFlow Datasets as a source of random crops, without TensorFlow."""

import functools
import threading
from collections.abc import Mapping, Sequence

from cdd.core.errors import UserError
from cdd.core.words import quoted
from cdd.data import arrays, images
from cdd.data.sources import fields, pictures, records
from cdd.data.sources.needs import refuse_others


def tfds(
  needs: Sequence[str] = ('image',),
  /,
  *,
  dataset: str,
  size: int | tuple,
  split: str = 'train',
  data_dir: str | None = None,
  seed: int = 0,
  length: int = 10_000_000,
  caption_column: str | None = None,
  columns: Mapping | None = None,
  background: str | Sequence[int] = 'white',
  flip: bool = True,
  max_skipped: float = 0.1,
):
  """Random crops of the images of a data set that was prepared by TensorFlow Datasets.

  It is read from the disk and never downloaded, and must be in a format of random access:
  tfds build NAME --file_format=array_record.

  Args:
    dataset: its name, as 'coco_captions' or 'my_data:1.0.0'.
    size: side of the crops in pixels, or their (height, width).
    split: as 'train' or 'train[:90%]'.
    data_dir: the folder of all data sets; None for that of TensorFlow Datasets.
    caption_column: the feature of captions; '' trains without any. If None, the first that an
      example fills of 'text', 'caption', 'prompt' and the like.
    columns: name of an array ('image', 'depth', ...) -> its feature, where it is not called so.
    background: what lies behind transparent pixels: a colour's name, #rrggbb, or (r, g, b).
    flip: mirrors half of the crops.
    max_skipped: the share of damaged examples that is skipped; more are an error.

  Raises:
    UserError: the data set is not there or in another format, has no such split, lacks an array
      that the task reads, or a setting is bad.
  """
  refuse_others(needs, arrays.ARRAYS, 'tfds')
  colour = images.colour(background)
  features = _features(dataset, data_dir)
  settings = dict(columns=columns, caption_column=caption_column)
  found = fields.of_records(f'tfds {dataset!r}', features, needs, **settings)
  rows = Rows((dataset, data_dir, split), found, size, colour)
  name = f'tfds({dataset!r}, split={split!r})'
  return records.crops(
    rows, name, size=size, seed=seed, length=length, flip=flip, max_skipped=max_skipped
  )


class Rows:
  """The examples of a split; each is read when it is drawn."""

  def __init__(self, place, found, size, colour):
    self._place, self._found = place, found
    self._settings = dict(crop=size, background=colour)
    self._length = len(_source(*place))

  def __len__(self):
    return self._length

  def __getitem__(self, number) -> pictures.Record:
    load = functools.partial(_loaded, self._place, int(number), self._found)
    return pictures.Record(f'{self._place[0]}, example {int(number)}', load, **self._settings)


def _loaded(place, number: int, found: fields.Fields):
  """(name of an array -> its file, the caption) of an example."""
  with images.decoding():
    record = _source(*place)[number]
  return fields.read(place[0], record, found, '.')


def _package():
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise records.missing('tensorflow-datasets', 'tfds', 'The source tfds') from error
  return tensorflow_datasets


@functools.cache
def _builder(dataset: str, data_dir: str | None):
  try:
    return _package().builder(dataset, data_dir=data_dir)
  except UserError:
    raise
  except Exception as error:  # It raises classes of its own, of many kinds.
    reason = quoted(' '.join(str(error).split()), 200)
    raise UserError(f'tfds has no data set {dataset!r} in {data_dir}: {reason}.') from error


def _features(dataset: str, data_dir: str | None) -> list[str]:
  features = _builder(dataset, data_dir).info.features
  if not hasattr(features, 'keys'):
    raise UserError(f'tfds {dataset!r} has examples that are no dicts of features.')
  return list(features.keys())


_LOCK = threading.Lock()


def _source(dataset: str, data_dir: str | None, split: str):
  with _LOCK:
    return _opened(dataset, data_dir, split)


@functools.cache
def _opened(dataset: str, data_dir: str | None, split: str):
  """The split, its pictures still encoded."""
  package, builder = _package(), _builder(dataset, data_dir)
  splits = list(builder.info.splits)
  if not splits:
    raise UserError(
      f'tfds {dataset!r} is not prepared in {data_dir or builder.data_dir}: run '
      f'tfds build {dataset} --file_format=array_record.'
    )
  pictures = {
    name: package.decode.SkipDecoding()
    for name, feature in builder.info.features.items()
    if isinstance(feature, package.features.Image)
  }
  try:
    return builder.as_data_source(split=split, decoders=pictures)
  except Exception as error:
    reason = quoted(' '.join(str(error).split()), 200)
    raise UserError(
      f'The split {split!r} of tfds {dataset!r} cannot be read at random ({reason}); choose one of '
      f'{splits}, prepared with --file_format=array_record.'
    ) from error
