"""Owns folders of images with captions, as a source of random crops."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from cdd.core.errors import UserError
from cdd.core.words import counted, quoted
from cdd.data import images, transforms
from cdd.data.sources import captions, pictures
from cdd.data.sources.needs import refuse_others


def image_folder(
  needs: Sequence[str] = ('image',),
  /,
  *,
  path,
  size: int,
  split: str | None = None,
  seed: int = 0,
  length: int = 10_000_000,
  caption_column: str | None = None,
  background: str | Sequence[int] = 'white',
):
  """Random crops of the images of a folder, which may be larger than memory.

  Captions are those of the folder's metadata.jsonl, metadata.csv, captions.jsonl or captions.csv,
  or of the .txt or .caption beside an image, or empty (cdd.data.sources.captions). Images that
  cannot be read are skipped, counted in the source's `skipped` and warned of: here if their headers
  show it, else when they are drawn.

  Args:
    size: side of the crops in pixels.
    split: keeps the rows of the metadata of this split alone.
    caption_column: the column of the metadata that holds the captions; '' trains without any. If
      None, the first that a row has of 'text', 'caption', 'prompt' and the like.
    background: what lies behind transparent pixels: a colour's name, #rrggbb, or (r, g, b).

  Raises:
    UserError: there is no such folder, no image in it that can be read and holds a crop, or a
      mistake in its metadata or in a setting.
  """
  transforms.check(size=size, seed=seed, length=length)
  colour = images.colour(background)
  folder = Path(path)
  if not os.path.isdir(folder):
    raise UserError(f'There is no image folder {str(path)!r}; set data.source.path to one.')
  refuse_others(needs, ('image',), 'image_folder')
  rows = captions.listing(folder, split, caption_column)
  if caption_column != '' and rows and not any(row.caption for row in rows):
    files = ', '.join(captions.METADATA)
    said = 'All captions of %s are empty; they are read from %s, or from NAME.txt beside NAME.png.'
    logging.warning(said, folder, files)
  examples, skipped = sorted_out(folder, rows, size, colour)
  if not examples:
    raise UserError(none_left(folder, split, size, skipped))
  label = f'image_folder({folder.name!r}, split={split!r}, size={size}, seed={seed})'
  return transforms.RandomCrops(
    examples, size=size, seed=seed, length=length, label=label, skipped=skipped
  )


def sorted_out(
  folder: Path, rows: Sequence[captions.Row], size: int, colour: tuple[int, int, int]
) -> tuple[list[pictures.Picture], dict[str, Exception]]:
  """(the pictures that hold a crop, why each of the others is skipped), by their headers."""
  examples, skipped = [], {}
  for row in rows:
    try:
      examples.append(pictures.picture(folder / row.name, row.caption, size, colour))
    except (images.Unreadable, transforms.TooSmall) as error:
      if row.name not in skipped:
        logging.warning('Skipped %s: %s.', quoted(folder / row.name, 200), error)
      skipped[row.name] = error
  if skipped:
    total = counted(len(rows), 'image')
    logging.warning('Skipped %d of %s in %s.', len(rows) - len(examples), total, folder)
  return examples, skipped


def none_left(folder: Path, split: str | None, size: int, skipped: dict[str, Exception]) -> str:
  """The message of a folder without an image that holds a crop, and what to do about it."""
  where = f'image{f" of split {split!r}" if split else ""} in {str(folder)!r}'
  small = [error for error in skipped.values() if isinstance(error, transforms.TooSmall)]
  if small:
    width, height = largest = max((error.size for error in small), key=min)
    others = len(skipped) - len(small)
    return (
      f'No {where} is large enough for a crop of {size}x{size} pixels: the largest of '
      f'{len(small)} is {width}x{height}{f" ({others} more cannot be read)" if others else ""}; '
      f'set data.source.size to {min(largest)} or less.'
    )
  first = next((f'{quoted(name)}: {error}; ' for name, error in skipped.items()), '')
  return (
    f'No {where} can be read ({len(skipped)} skipped); {first}'
    f'it should hold files ending in one of {list(captions.SUFFIXES)}.'
  )
