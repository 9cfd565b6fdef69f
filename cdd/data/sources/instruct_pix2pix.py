"""Owns InstructPix2Pix's own folders of images, edited images and instructions (Brooks et al.)."""

import functools
import json
from collections.abc import Sequence

import numpy as np

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.places import Place
from cdd.core.words import quoted
from cdd.data import images, transforms
from cdd.data.sources import captions, pictures, tables
from cdd.data.sources.needs import refuse_others

SEEDS, PROMPT = 'seeds.json', 'prompt.json'
# Where the splits end, as shares of the prompts in the order of seeds.json (edit_dataset.py).
SPLITS = dict(train=(0.0, 0.9), val=(0.9, 0.95), test=(0.95, 1.0))
ENDS = dict(image='0.jpg', edited_image='1.jpg')


def instruct_pix2pix(
  needs: Sequence[str] = ('image',),
  /,
  *,
  path,
  size: int | tuple,
  split: str = 'train',
  seed: int = 0,
  length: int = 10_000_000,
  flip: bool = True,
  max_skipped: float = 0.1,
):
  """Random crops of the pairs that InstructPix2Pix was trained on, in the layout of its download.

  `path` holds seeds.json, [[folder, [seed, ...]], ...], and of each folder prompt.json and the
  pairs SEED_0.jpg, SEED_1.jpg. The caption is the instruction ('edit') if the task reads
  `edited_image`, else the text of the first image ('caption' or 'input'). A pair is drawn as often
  as any other, where the original draws a prompt first and then one of its pairs.

  Args:
    path: the folder, or a URL such as gs://bucket/folder.
    size: side of the crops in pixels, or their (height, width).
    split: 'train', 'val' or 'test': the first .9, the next .05 and the last .05 of the prompts.
    flip: mirrors half of the crops; the two images of a pair alike, but not 'left' and 'right' in
      its instruction.
    max_skipped: the share of damaged examples that is skipped; more are an error.

  Raises:
    UserError: no such folder or split, or a mistake in seeds.json or in a setting.
  """
  transforms.check(size=size, seed=seed, length=length)
  refuse_others(needs, tuple(ENDS), 'instruct_pix2pix')
  if split not in SPLITS:
    raise UserError(f'Unknown split {split!r} of {path}; choose one of {list(SPLITS)}.')
  listed = _listed(places.joined(path, SEEDS))
  start, end = (int(share * len(listed)) for share in SPLITS[split])
  pairs = Pairs(path, listed[start:end], needs, size)
  if not len(pairs):
    raise UserError(f'No pair of split {split!r} in {path}: {SEEDS} has {len(listed)} prompts.')
  label = f'instruct_pix2pix(split={split!r}, size={size}, seed={seed})'
  return transforms.RandomCrops(pairs, size=size, seed=seed, length=length, label=label, flip=flip)


class Pairs:
  """The pairs of some prompts; each is read when it is drawn."""

  def __init__(self, path: Place, prompts: Sequence, needs: Sequence[str], size):
    self._path, self._needs, self._size = path, needs, size
    self._folders = [folder for folder, _ in prompts]
    self._seeds = np.array([seed for _, seeds in prompts for seed in seeds], np.str_)
    self._prompt = np.repeat(np.arange(len(prompts)), [len(seeds) for _, seeds in prompts])

  def __len__(self):
    return len(self._seeds)

  def __getitem__(self, number) -> pictures.Record:
    folder, name = self._folders[self._prompt[number]], str(self._seeds[number])
    load = functools.partial(_loaded, self._path, folder, name, self._needs)
    return pictures.Record(f'{folder}/{name}', load, self._size)


def _loaded(path: Place, folder: str, seed: str, needs: Sequence[str]):
  """(name of an array -> its bytes, the caption) of a pair."""
  place = places.joined(path, folder)
  with images.decoding():
    files = {
      name: places.read(places.joined(place, f'{seed}_{ENDS[name]}'))
      for name in dict.fromkeys(('image', *needs))
    }
    words = json.loads(places.read(places.joined(place, PROMPT)))
  columns = ('edit',) if 'edited_image' in needs else ('caption', 'input')
  if not isinstance(words, dict) or not captions.of(f'{folder}/{PROMPT}', words, columns):
    raise images.Unreadable(f'its {PROMPT} has no {columns[0]!r}')
  return files, captions.of(f'{folder}/{PROMPT}', words, columns)


def _listed(path: Place) -> list[tuple[str, list[str]]]:
  """[(folder, [seed, ...]), ...] of seeds.json.

  Raises:
    UserError: it is missing or spells something else.
  """
  if not places.is_file(path):
    raise UserError(f'There is no {path}, which lists the pairs of InstructPix2Pix.')
  text = tables.text(path)
  try:
    listed = json.loads(text)
    found = [(str(folder), [str(seed) for seed in seeds]) for folder, seeds in listed]
  except (ValueError, TypeError, RecursionError) as error:
    said = f'{path} must be [["0000000", [SEED, ...]], ...]; {quoted(error, 200)}.'
    raise UserError(said) from error
  for folder, seeds in found:
    for name in (folder, *seeds):
      if tables.leaves(name):
        raise UserError(f'{path} names {quoted(name)}; it must be a path below the folder.')
  return found
