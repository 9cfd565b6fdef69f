"""Owns examples encoded ahead of training: a folder of latents, and the source that reads it."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cdd.errors import UserError


def write(
  folder: Path,
  source,
  task: Callable,
  encoders: Mapping[str, Callable[[np.ndarray], np.ndarray]],
  *,
  count: int,
  batch_size: int = 32,
) -> None:
  """Encodes the first `count` examples of a source; the folder is there whole or not at all.

  Args:
    task: (example, rng) -> dict; example i is drawn with the generator of (0, i).
    encoders: picture ('image', 'condition') -> what makes the array to keep of a batch of them
      [b, H, W, 3] in [0, 1]; it is kept as float16, or as it is if whole numbers.

  Raises:
    UserError: the source is shorter than `count`.
  """
  if count > len(source):
    raise UserError(f'Cannot encode {count} of {len(source)} examples (data.cache).')
  new = folder.with_name(folder.name + '.tmp')
  shutil.rmtree(new, ignore_errors=True)
  new.mkdir(parents=True)
  captions, files = [], {}
  for start in tqdm(range(0, count, batch_size), desc='encoding', unit='batch', dynamic_ncols=True):
    numbers = range(start, min(start + batch_size, count))
    examples = [task(source[i], np.random.default_rng((0, i))) for i in numbers]
    captions += [example['caption'] for example in examples]
    for name, encode in encoders.items():
      pictures = np.stack([example[name] for example in examples])
      short = batch_size - len(pictures)  # The last batch is filled up, so that one shape compiles.
      filled = np.concatenate([pictures, np.repeat(pictures[-1:], short, axis=0)])
      array = np.asarray(encode(filled))[: len(pictures)]
      kind = array.dtype if np.issubdtype(array.dtype, np.integer) else np.float16
      if name not in files:
        shape = (count, *array.shape[1:])
        path = str(new / f'{name}.npy')
        files[name] = np.lib.format.open_memmap(path, 'w+', kind, shape)
      files[name][start : start + len(array)] = array
  for file in files.values():
    file.flush()
  (new / 'captions.json').write_text(json.dumps(captions))
  os.replace(new, folder)


class Latents:
  """`[i] -> dict(image_latents, condition_latents | condition, caption)`, as `write` left them."""

  def __init__(self, folder: Path):
    self._folder = Path(folder)
    self._captions = json.loads((self._folder / 'captions.json').read_text())
    files = sorted(self._folder.glob('*.npy'))
    self._arrays = {path.stem: np.load(path, mmap_mode='r') for path in files}

  def __len__(self):
    return len(self._captions)

  def __getitem__(self, index):
    example = dict(caption=self._captions[index])
    for name, array in self._arrays.items():
      if array.dtype == np.uint8:
        example[name] = array[index].astype(np.float32) / 255
      else:
        example[f'{name}_latents'] = array[index].astype(np.float32)
    return example

  def __repr__(self):
    return f'Latents({self._folder.name!r})'
