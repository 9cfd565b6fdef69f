"""Owns where examples come from: `len(source)` and `source[i] -> dict(image, caption, ...)`."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from cdd import assets
from cdd.core.errors import UserError
from cdd.core.registry import bind
from cdd.data import transforms as crops
from cdd.data.scenes import Scenes

PHOTOS = assets.PHOTOS
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')


def scenes(
  *, size: int, seed: int = 0, start: int = 0, length: int = 10_000_000, detail: float = 0.7
):
  """Rendered scenes with exact depth (cdd.data.scenes)."""
  return Scenes(size=size, seed=seed, start=start, length=length, detail=detail)


def photos(*, split: str, size: int, seed: int = 0, length: int = 10_000_000):
  """Crops of the packaged photographs; those of the split 'test' are held out whole."""
  return image_folder(path=PHOTOS, split=split, size=size, seed=seed, length=length)


def image_folder(
  *, path, size: int, split: str | None = None, seed: int = 0, length: int = 10_000_000
):
  """Random crops of the images of a folder, which may be larger than memory.

  Captions are the `text` of the folder's metadata.jsonl (rows of file_name, text and, optionally,
  split), or an image's sibling .txt, or empty. Images that cannot be read are skipped, counted in
  the source's `skipped` and warned of: here if their headers tell, else when they are drawn.

  Args:
    size: side of the crops in pixels.
    split: keeps the rows of metadata.jsonl of this split alone.

  Raises:
    UserError: there is no such folder, or no image in it that can be read.
  """
  folder = Path(path)
  if not folder.is_dir():
    raise UserError(f'There is no image folder {str(path)!r}; set data.source.path to one.')
  pictures, skipped = [], []
  listing = _listing(folder, split)
  for name, caption in listing:
    try:
      pictures.append(crops.picture(folder / name, caption, size))
    except crops.UNREADABLE as error:
      logging.warning('Skipped %s: %s', folder / name, error)
      skipped.append(name)
  if skipped:
    logging.warning('Skipped %d of %d images in %s.', len(skipped), len(listing), folder)
  if not pictures:
    of_split = f' of split {split!r}' if split else ''
    raise UserError(
      f'No image{of_split} in {str(path)!r} can be read ({len(skipped)} skipped); '
      f'it should hold files ending in one of {list(SUFFIXES)}.'
    )
  label = f'image_folder({folder.name!r}, split={split!r}, size={size}, seed={seed})'
  return crops.RandomCrops(
    pictures, size=size, seed=seed, length=length, label=label, skipped=skipped
  )


def _listing(folder: Path, split: str | None) -> list[tuple[str, str]]:
  """(file name, caption) for every image."""
  metadata = folder / 'metadata.jsonl'
  if metadata.exists():
    rows = []
    for number, line in enumerate(metadata.read_text().splitlines(), 1):
      try:
        row = json.loads(line)
        if split is None or row.get('split') == split:
          rows.append((row['file_name'], row.get('text', '')))
      except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f'{metadata}, line {number}: {error!r} in {line[:80]!r}.') from error
    return rows
  if split is not None:
    raise UserError(f'{metadata} is missing, and split={split!r} is written there.')
  names = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
  beside = lambda p: (
    p.with_suffix('.txt').read_text().strip() if p.with_suffix('.txt').exists() else ''
  )
  return [(p.name, beside(p)) for p in names]


class Mixture:
  """Takes from several sources in turn."""

  def __init__(self, sources: Sequence):
    self._sources = list(sources)

  def __len__(self):
    return min(map(len, self._sources)) * len(self._sources)

  def __getitem__(self, index):
    item, which = divmod(int(index), len(self._sources))
    return self._sources[which][item]

  def __repr__(self):
    return f'Mixture({self._sources!r})'


def mixture(*, sources: Sequence):
  """Takes from the sources of these specs in turn."""
  return Mixture([bind(SOURCES, spec, 'source')() for spec in sources])


SOURCES = dict(image_folder=image_folder, mixture=mixture, photos=photos, scenes=scenes)
