"""Owns folders of images with captions and aligned arrays, as a source of random crops."""

import functools
import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.places import Place
from cdd.core.registry import choose
from cdd.core.words import counted, quoted
from cdd.data import arrays, buckets, images, skips, transforms
from cdd.data.sources import beside, layouts, pictures
from cdd.data.sources.needs import refuse_others

PARTS = ('train', 'test')
EACH = 20  # Of so many examples one is held out.
FEW = 100  # Of fewer images, so many damaged ones are borne as of these.


def image_folder(
  needs: Sequence[str] = ('image',),
  /,
  *,
  path,
  size: int | tuple,
  split: str | None = None,
  part: str | None = None,
  seed: int = 0,
  length: int = 10_000_000,
  caption_column: str | None = None,
  columns: Mapping | None = None,
  background: str | Sequence[int] = 'white',
  flip: bool = True,
  max_skipped: float = 0.1,
):
  """Random crops of the images of a folder, which may be larger than memory, and of their arrays.

  docs/own_data.md shows the layouts: a metadata.jsonl or metadata.csv whose columns name the files,
  files beside an image (a.txt, a.depth.png), or folders beside its own (depth/a.png). Examples that
  cannot be read are skipped, counted in the source's `skipped` and warned of: here if their headers
  show it, else, and in a folder that is a URL, when they are drawn.

  Args:
    path: the folder; a local one, or a URL such as gs://bucket/folder.
    size: side of the crops in pixels, or their (height, width). In a local folder also several of
      these, such as ((512, 512), (448, 576)): each picture takes the one whose shape is nearest to
      its own, and a batch holds crops of one size (`buckets`).
    split: keeps the rows of the metadata of this split alone; without metadata, the files of the
      folder of this name.
    part: 'test' holds one example in twenty out, chosen by their names, and 'train' has the others:
      for a folder without splits. None has all.
    caption_column: the column of the metadata that holds the captions; '' trains without any. If
      None, the first that a row has of 'text', 'caption', 'prompt' and the like.
    columns: name of an array ('image', 'depth', ...) -> the column of the metadata that holds its
      paths, where it is not called so.
    background: what lies behind transparent pixels: a colour's name, #rrggbb, or (r, g, b).
    flip: mirrors half of the crops.
    max_skipped: the share of damaged examples that is skipped; more are an error.

  Raises:
    UserError: there is no such folder, no image in it that can be read and holds a crop, nothing of
      an array that the task reads, or a mistake in its metadata or in a setting.
  """
  in_buckets = transforms.several(size) and not places.is_url(path)
  if in_buckets:
    buckets.check(size)
  transforms.check(size=1 if in_buckets else size, seed=seed, length=length)
  colour = images.colour(background)
  refuse_others(needs, arrays.ARRAYS, 'image_folder')
  folder, within = placed(path, split)
  settings = dict(split=within, column=caption_column, columns=columns)
  rows = of_part(layouts.listing(folder, needs, **settings), part, folder)
  if caption_column != '' and rows and not any(row.caption or row.texts for row in rows):
    files = ', '.join(layouts.METADATA)
    said = 'All captions of %s are empty; they are read from %s, or from NAME.txt beside NAME.png.'
    logging.warning(said, folder, files)
  if places.is_url(folder):
    examples, skipped = Rows(folder, rows, needs, size, colour), {}
  else:
    examples, skipped = sorted_out(folder, rows, needs, size, colour)
    refuse_damaged(folder, skipped, len(rows), max_skipped)
  if not examples:
    raise UserError(none_left(folder, split, size, skipped))
  name = PurePosixPath(str(folder)).name
  label = f'image_folder({name!r}, split={split!r}, size={size}, seed={seed})'
  return buckets.crops(
    examples,
    size=size,
    seed=seed,
    length=length,
    label=label,
    flip=flip,
    max_skipped=max_skipped,
    skipped=skipped,
  )


def of_part(rows: Sequence[layouts.Row], part: str | None, folder: Place) -> list[layouts.Row]:
  """The rows of a part, in their order: the same whenever the folder is the same.

  Raises:
    UserError: an unknown part, or too few rows to have two.
  """
  if part is None:
    return list(rows)
  choose(dict.fromkeys(PARTS), part, 'part of a folder')
  ranked = sorted(
    {row.name for row in rows}, key=lambda name: hashlib.sha256(name.encode()).digest()
  )
  if len(ranked) < 2:
    raise UserError(
      f'{folder} has {counted(len(ranked), "image")}; it needs two or more for one to be held out.'
    )
  held_out = set(ranked[: max(1, len(ranked) // EACH)])
  return [row for row in rows if (row.name in held_out) == (part == 'test')]


def placed(path: Place, split: str | None) -> tuple[Place, str | None]:
  """(the folder, the split of its metadata): without metadata, a split is a folder in it.

  Raises:
    UserError: there is no such folder.
  """
  folder = str(path) if places.is_url(path) else Path(path)
  if not str(path) or not places.is_folder(folder):
    near = f' ({places.missing(folder)})' if str(path) and not places.is_url(folder) else ''
    raise UserError(f'There is no image folder {str(path)!r}{near}; set data.source.path to one.')
  if split and layouts.metadata(folder) is None:
    inner = places.joined(folder, split)
    if places.is_folder(inner):
      return inner, None
  return folder, split


class Rows:
  """The examples of a folder that is a URL: what is read of each is its files, when it is drawn."""

  def __init__(self, folder: Place, rows: Sequence[layouts.Row], needs, size, colour):
    self._folder, self._rows, self._needs = folder, rows, needs
    self._settings = dict(crop=size, background=colour)

  def __len__(self):
    return len(self._rows)

  def __getitem__(self, number) -> pictures.Record:
    row = self._rows[number]
    load = functools.partial(loaded, self._folder, row, self._needs)
    return pictures.Record(row.name, load, **self._settings)


def loaded(folder: Place, row: layouts.Row, needs: Sequence[str]):
  """(name of an array -> its bytes, the caption) of a row.

  Raises:
    images.Unreadable: a file is missing.
  """
  files = {}
  for name, path in needed(row, needs).items():
    with pictures.naming(name), images.decoding():
      files[name] = places.read(places.joined(folder, path))
  return files, layouts.read(folder, row).caption


def needed(row: layouts.Row, needs: Sequence[str]) -> dict[str, str]:
  """Name of an array that is read -> its path.

  Raises:
    images.Unreadable: the row lacks one.
  """
  missing = [name for name in needs if name not in row.files]
  if missing:
    raise images.Unreadable(f'it has no {missing[0]}')
  return {name: row.files[name] for name in ('image', *needs)}


def sorted_out(
  folder: Path, rows: Sequence[layouts.Row], needs: Sequence[str], size, colour
) -> tuple[list[pictures.Picture], dict[str, Exception]]:
  """(the examples that hold a crop, why each of the others is skipped), by their headers."""
  examples, skipped = [], {}
  for row in rows:
    try:
      files = {name: folder / path for name, path in needed(row, needs).items()}
      examples.append(pictures.picture(row.name, files, row.caption, size, colour))
    except images.Unreadable as error:
      if row.name not in skipped:
        logging.warning('Skipped %s: %s.', quoted(folder / row.name, 200), error)
      skipped[row.name] = error
  if skipped:
    total = counted(len(rows), 'image')
    logging.warning('Skipped %d of %s in %s.', len(rows) - len(examples), total, folder)
  return examples, skipped


def refuse_damaged(folder: Path, skipped: Mapping, count: int, most: float) -> None:
  """Refuses a folder of whose images too many are damaged, as far as their headers tell.

  Raises:
    UserError: says how many, and why the first is.
  """
  skips.check(most)
  damaged = {name: e for name, e in skipped.items() if not isinstance(e, skips.TooSmall)}
  if damaged and len(damaged) < count and skips.over(len(damaged), count, most, FEW):
    name, reason = next(iter(damaged.items()))
    raise UserError(
      f'{len(damaged)} of {counted(count, "image")} in {folder} cannot be read, more than the '
      f'share of {most:g} that max_skipped allows; {quoted(name)} is the first: {reason}.'
    )


def none_left(folder: Place, split: str | None, size, skipped: Mapping[str, Exception]) -> str:
  """The message of a folder without an image that holds a crop, and what to do about it."""
  where = f'image{f" of split {split!r}" if split else ""} in {str(folder)!r}'
  small = [error for error in skipped.values() if isinstance(error, skips.TooSmall)]
  if small:
    width, height = largest = max((error.size for error in small), key=min)
    others = len(skipped) - len(small)
    return (
      f'No {where} is large enough for {crop_of(size)} pixels: the largest of '
      f'{len(small)} is {width}x{height}{f" ({others} more cannot be read)" if others else ""}; '
      f'set data.source.size to {min(largest)} or less.'
    )
  first = next((f'{quoted(name)}: {error}; ' for name, error in skipped.items()), '')
  return (
    f'No {where} can be read ({len(skipped)} skipped); {first}'
    f'it should hold files ending in one of {list(beside.SUFFIXES)}.'
  )


def crop_of(size) -> str:
  """'a crop of 64x48', or of the smallest of several sizes."""
  smallest = min(map(transforms.sides, size), key=math.prod) if transforms.several(size) else size
  tall, wide = transforms.sides(smallest)
  return f'a crop of {wide}x{tall}'
