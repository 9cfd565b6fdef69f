"""Owns the layouts of image folders: which files and which caption each example has."""

import logging
import posixpath
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.places import Place
from cdd.core.words import counted, quoted
from cdd.data.arrays import ARRAYS
from cdd.data.sources import beside, captions, fields, tables

METADATA = (  # The first that is there is read.
  'metadata.jsonl',
  'metadata.csv',
  'metadata.parquet',
  'captions.jsonl',
  'captions.csv',
  'meta.jsonl',
  'prompt.json',
)
SPLIT = 'split'
HELD_OUT = ('test', 'val', 'valid', 'validation')  # Folders beside one called train.
CONTROLNET = 'prompt.json'  # Lines of {source, target, prompt}.
PIX2PIX = 'seeds.json'


class Row(NamedTuple):
  """An example of a folder.

  Attributes:
    files: name of an array -> its path from the folder; `image` is always there.
    caption: its text, or several of equal rank.
    texts: files whose text is the caption, the first that is not empty.
  """

  files: Mapping[str, str]
  caption: str | Sequence[str] = ''
  texts: Sequence[str] = ()

  @property
  def name(self) -> str:
    return self.files['image']


def listing(
  folder: Place,
  needs: Sequence[str] = ('image',),
  *,
  also: Sequence[str] = (),
  split: str | None = None,
  column: str | None = None,
  columns: Mapping[str, str] | None = None,
) -> list[Row]:
  """The examples of a folder; those of a local one with their captions.

  Args:
    needs: the arrays to find; a row that lacks one is listed without it.
    also: more arrays to find, which no row needs to have.
    split: keeps the rows of the metadata of this split alone.
    column: the column of the metadata that holds the captions; '' for none. If None, a row's
      caption is the first of `captions.known` that it fills; where the metadata has none of these,
      and where there is no metadata, captions are in the files beside the images.
    columns: name of an array -> the column of the metadata that holds its path.

  Raises:
    UserError: names the file, the line and what is wrong in it, or the columns to choose from; or
      says where an array was looked for that no example has.
  """
  columns, wanted = fields.checked(columns), (*needs, *also)
  files = beside.Files(folder)
  path = metadata(folder)
  if path is None:
    settings = dict(split=split, caption_column=column, columns=columns)
    rows = _without_metadata(files, wanted, settings)
    there = ()
  else:
    records = tables.records(path)
    there = tables.columns(records)
    roles = _roles(path, there, wanted, columns)
    rows = _of_records(path, records, there, roles, files, wanted, split, column)
  for array in needs:
    if rows and not any(array in row.files for row in rows):
      raise UserError(_nowhere(folder, array, len(rows), path, there))
  return rows if places.is_url(folder) else [read(folder, row) for row in rows]


def metadata(folder: Place) -> Place | None:
  """The metadata file of a folder, if it has one."""
  paths = (places.joined(folder, name) for name in METADATA)
  return next((path for path in paths if places.is_file(path)), None)


def read(folder: Place, row: Row) -> Row:
  """A row with the caption of the files beside its image."""
  texts = (tables.text(places.joined(folder, name)).strip() for name in row.texts)
  return row._replace(caption=next(filter(None, texts), row.caption), texts=())


def _without_metadata(files: beside.Files, needs, settings: Mapping[str, object]) -> list[Row]:
  for setting, value in settings.items():
    if value:
      missing = places.joined(files.folder, METADATA[0])
      raise UserError(f'{missing} is missing, and {setting}={value!r} is in it.')
  if PIX2PIX in files.names:
    raise UserError(
      f"{files.folder} has a {PIX2PIX}, as InstructPix2Pix's data; set data.source.name to "
      "'instruct_pix2pix'."
    )
  for name in files.names:
    if posixpath.basename(name) in METADATA and name.count('/') == 1:
      inner = posixpath.dirname(name)
      raise UserError(
        f'{files.folder} has no metadata, and {inner} in it has: set data.source.path to that '
        f'folder, or data.source.split={inner!r}.'
      )
  tops = {name.partition('/')[0] for name in files.images if '/' in name}
  if 'train' in tops and tops & {*HELD_OUT}:
    both = sorted(tops & {'train', *HELD_OUT})
    said = "%s: the folders %s are read together; data.source.split='train' reads one of them."
    logging.warning(said, files.folder, ' and '.join(both))
  silent = settings['caption_column'] == ''
  return [
    Row(_found(files, name, {}, needs), texts=() if silent else files.texts(name))
    for name in files.images
  ]


def _of_records(path, records, there, roles, files, needs, split, column) -> list[Row]:
  """The rows of a metadata file; `roles`: name of an array -> its column."""
  read = captions.columns(path, there, needs, column, taken=list(roles.values()))
  rows = []
  for record in _of_split(path, records, split):
    image = tables.path_below(record, roles['image'])
    paths = {
      name: tables.path_below(record, role, required=False)
      for name, role in roles.items()
      if name != 'image'
    }
    found = _found(files, image, {name: p for name, p in paths.items() if p}, needs)
    if read is None:
      rows.append(Row(found, texts=files.texts(image)))
    else:
      rows.append(Row(found, captions.of(record.where, record.fields, read)))
  others = [name for name in there if name not in (SPLIT, *roles.values())]
  if read is None and others and not any(row.texts for row in rows):
    known = list(captions.known(needs))
    raise UserError(
      f'{path}: none of its columns is one of {known}; set data.source.caption_column '
      f"to one of {quoted(others, 300)}, or to '' to train without captions."
    )
  return rows


def _found(files: beside.Files, image: str, paths: Mapping[str, str], needs) -> dict[str, str]:
  """Name of an array -> its path: one of the metadata, or found by the image's name."""
  found = {'image': image, **paths}
  for name in needs:
    if name not in found and (path := files.array(image, name)):
      found[name] = path
  return found


def _roles(path: Place, there: Sequence[str], needs, chosen: Mapping[str, str]) -> dict[str, str]:
  """Name of an array -> the column of its paths; those that have none are left out."""
  found = fields.of_arrays(path, there, needs, _pair(path, there, needs) | chosen)
  if 'image' not in found:
    raise UserError(f"{path}: none of its columns is 'file_name'; there are {quoted(there, 300)}.")
  return found


def _pair(path: Place, there: Sequence[str], needs) -> dict[str, str]:
  """The columns of ControlNet's prompt.json: of an edit, the source is the image before it."""
  if not str(path).endswith(CONTROLNET) or not {'source', 'target'} <= {*there}:
    return {}
  if 'edited_image' in needs:
    return dict(image='source', edited_image='target')
  return dict(image='target') | (dict(condition='source') if 'condition' in needs else {})


def _of_split(path: Place, records: list[tables.Record], split: str | None):
  if split is None:
    return records
  kept = [record for record in records if record.fields.get(SPLIT) == split]
  if not kept:
    there = sorted({str(record.fields[SPLIT]) for record in records if SPLIT in record.fields})
    raise UserError(f'No image of split {split!r} in {path}; choose one of {quoted(there, 300)}.')
  return kept


def _nowhere(folder: Place, array: str, count: int, path: Place | None, there) -> str:
  """The message of a folder none of whose images has an array: where it was looked for."""
  name = ARRAYS[array].names[0]
  looked = [f'NAME.{name}.* beside NAME.png', f'a folder {name}/']
  if path is not None:
    columns = f'columns called {quoted([*ARRAYS[array].names])} (there are {quoted([*there], 300)})'
    looked.insert(0, f'{columns}, or as data.source.columns=dict({name}=...) says')
  return (
    f'{path or folder}: the task reads {array!r}, which none of '
    f'{counted(count, "image")} has; looked for {"; for ".join(looked)}.'
  )
