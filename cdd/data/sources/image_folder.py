"""Owns folders of images with captions, as a source of random crops."""

import json
import logging
from pathlib import Path

from cdd.core.errors import UserError
from cdd.data import transforms
from cdd.data.sources import pictures

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')


def image_folder(
  *, path, size: int, split: str | None = None, seed: int = 0, length: int = 10_000_000
):
  """Random crops of the images of a folder, which may be larger than memory.

  Captions are the `text` of the folder's metadata.jsonl (rows of file_name, text and, optionally,
  split), or an image's sibling .txt, or empty. Images that cannot be read are skipped, counted in
  the source's `skipped` and warned of: here if their headers show it, else when they are drawn.

  Args:
    size: side of the crops in pixels.
    split: keeps the rows of metadata.jsonl of this split alone.

  Raises:
    UserError: there is no such folder, or no image in it that can be read.
  """
  folder = Path(path)
  if not folder.is_dir():
    raise UserError(f'There is no image folder {str(path)!r}; set data.source.path to one.')
  examples, skipped = [], []
  listing = _listing(folder, split)
  for name, caption in listing:
    try:
      examples.append(pictures.picture(folder / name, caption, size))
    except pictures.UNREADABLE as error:
      logging.warning('Skipped %s: %s', folder / name, error)
      skipped.append(name)
  if skipped:
    logging.warning('Skipped %d of %d images in %s.', len(skipped), len(listing), folder)
  if not examples:
    of_split = f' of split {split!r}' if split else ''
    raise UserError(
      f'No image{of_split} in {str(path)!r} can be read ({len(skipped)} skipped); '
      f'it should hold files ending in one of {list(SUFFIXES)}.'
    )
  label = f'image_folder({folder.name!r}, split={split!r}, size={size}, seed={seed})'
  return transforms.RandomCrops(
    examples, size=size, seed=seed, length=length, label=label, skipped=skipped
  )


def _listing(folder: Path, split: str | None) -> list[tuple[str, str]]:
  """(file name, caption) for every image."""
  metadata = folder / 'metadata.jsonl'
  if metadata.exists():
    rows = []
    for number, line in enumerate(_text(metadata).splitlines(), 1):
      try:
        row = json.loads(line)
        if split is None or row.get('split') == split:
          rows.append((row['file_name'], row.get('text') or ''))
      except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{metadata}, line {number}: {error!r} in {line[:80]!r}.') from error
    return rows
  if split is not None:
    raise UserError(f'{metadata} is missing, and split={split!r} is written there.')
  names = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)

  def beside(p):
    return _text(p.with_suffix('.txt')).strip() if p.with_suffix('.txt').exists() else ''

  return [(p.name, beside(p)) for p in names]


def _text(path: Path) -> str:
  """The text of a file; a UserError names it if it is not UTF-8."""
  try:
    return path.read_text('utf-8')
  except UnicodeDecodeError as error:
    raise UserError(f'{path} is not UTF-8: {error}.') from error
