"""Owns examples encoded ahead of training: a folder of latents, and the source that reads it."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import filelock
import grain
import numpy as np
from tqdm import tqdm

from cdd.core import files
from cdd.core.errors import UserError
from cdd.data import pipeline


def write(folder: Path, source, task: Callable, encoders: Mapping[str, Callable], **settings):
  """Encodes the first examples of a source; the folder is there complete or not at all.

  Of several runs at once the first encodes, and the others wait for it.

  Args:
    task: (example, rng) -> dict; example i is drawn with the generator of (0, i).
    encoders: picture ('image', 'condition') -> what makes the array to write of a batch of them
      [b, H, W, 3] in [0, 1]; it is written as float16, or as it is if whole numbers.
    settings: the count, and what `encode` takes besides.

  Raises:
    UserError: the source is shorter than the count, or latents are not finite.
  """
  folder.parent.mkdir(parents=True, exist_ok=True)
  with filelock.FileLock(folder.with_suffix('.lock')):
    if not folder.exists():
      with files.atomic(folder) as new:
        encode(new, source, task, encoders, **settings)


def unchanged(batch: dict) -> dict:
  return batch


def filled(batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
  """A batch filled up with its last example, so that one shape compiles."""

  def whole(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])

  return {name: whole(array) for name, array in batch.items()}


def encode(
  folder: Path,
  source,
  task: Callable,
  encoders: Mapping[str, Callable[[np.ndarray], np.ndarray]],
  *,
  count: int,
  finish: Callable[[dict], dict] = unchanged,
  batch_size: int = 32,
  threads: int = 2,
  workers: int = 0,
) -> None:
  """Writes the arrays and the captions of `write`.

  Args:
    finish: makes a batch of what was drawn complete, captions aside (`Task.finish`).
    threads, workers: what draws the examples (`pipeline.prefetched`).
  """
  if count > len(source):
    raise UserError(f'Cannot encode {count} of {len(source)} examples (data.cache).')
  folder.mkdir()

  def draw(i, example):
    return task(example, np.random.default_rng((0, i)))

  drawn = grain.MapDataset.source(source)[:count].map_with_index(draw).batch(batch_size)
  total = len(drawn)
  drawn = pipeline.prefetched(drawn, threads=threads, workers=workers)
  captions, arrays = [], {}
  for batch in tqdm(drawn, desc='encoding', total=total, unit='batch', dynamic_ncols=True):
    start, texts = len(captions), batch.pop('caption')
    captions += map(str, texts)
    batch = finish(filled(batch, batch_size))
    whole = {'sizes': lambda sizes: sizes.astype(np.int32)} if 'sizes' in batch else {}
    for name, encoder in (encoders | whole).items():
      array = np.asarray(encoder(batch[name]))[: len(texts)]
      kind = array.dtype if np.issubdtype(array.dtype, np.integer) else np.float16
      array = finite(array.astype(kind), name, start)
      if name not in arrays:
        path = str(folder / f'{name}.npy')
        arrays[name] = np.lib.format.open_memmap(path, 'w+', kind, (count, *array.shape[1:]))
        reserve(path)
      arrays[name][start : start + len(texts)] = array
  drawn.close()
  for array in arrays.values():
    array.flush()
  (folder / 'captions.json').write_text(json.dumps(captions))


def reserve(path: str) -> None:
  """Takes the room of a file: to write a mapped file on a full disk would kill the process.

  Raises:
    OSError: the disk is full.
  """
  with open(path, 'r+b') as file:
    if hasattr(os, 'posix_fallocate'):
      os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))


def finite(array: np.ndarray, name: str, start: int) -> np.ndarray:
  """The same array, of examples from number `start` on.

  Raises:
    UserError: names an example that holds what is not finite.
  """
  bad = np.flatnonzero(~np.isfinite(array).all(tuple(range(1, array.ndim))))
  if bad.size:
    raise UserError(
      f'The latents of {name} are not finite in example {start + bad[0]}: the autoencoder '
      'overflows or has damaged weights. With model.dtype float16, choose float32 or bfloat16.'
    )
  return array


class Latents:
  """`[i] -> dict(image_latents, condition_latents | condition, caption, sizes)`, as written.

  Sizes are there if the source has them.
  """

  def __init__(self, folder: Path):
    self._folder = Path(folder)
    self._captions = json.loads((self._folder / 'captions.json').read_text())
    paths = sorted(self._folder.glob('*.npy'))
    self._arrays = {path.stem: np.load(path, mmap_mode='r') for path in paths}

  def __reduce__(self):
    return Latents, (self._folder,)  # A worker is sent the place, not what is there.

  def __len__(self):
    return len(self._captions)

  def __getitem__(self, index):
    example = dict(caption=self._captions[index])
    for name, array in self._arrays.items():
      if array.dtype == np.uint8:
        example[name] = array[index].astype(np.float32) / 255
      elif array.dtype == np.int32:
        example[name] = array[index].astype(np.float32)
      else:
        example[f'{name}_latents'] = array[index].astype(np.float32)
    return example

  def __repr__(self):
    return f'Latents({self._folder.name!r})'
