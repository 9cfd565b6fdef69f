"""Owns results that were measured once and ship as files, in place of the weights behind them."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cdd.core import files
from cdd.reports import grid

# A quarter of what is lossless; colours as sharp as the rest, as the images are small.
JPEG = dict(quality=85, subsampling=0, optimize=True, progressive=True)


class Stored(NamedTuple):
  """What a file of results holds.

  Attributes:
    rows: one dict per number of steps and of examples: steps, sampler, count, the metrics by name,
      and seconds_per_image of a computer that may have done other work besides.
    pictures: number of steps -> the first held-out examples, [n, H, W, 3] in [0, 1].
    examples: what `statistics` says of the examples in the pictures.
    updates: how many updates the model had.
    made: the commands that made it, and the sha256 of the weights.
  """

  rows: Sequence[Mapping]
  pictures: Mapping[int, np.ndarray]
  examples: Sequence[Sequence[float]]
  updates: int
  made: Mapping


def statistics(batch: Mapping, count: int = 8) -> list[list[float]]:
  """The means and standard deviations of the first examples: the truth's, then the condition's."""
  arrays = [np.asarray(batch[name][:count], np.float64) for name in ('image', 'condition')]
  columns = [measure(a, axis=(1, 2, 3)) for a in arrays for measure in (np.mean, np.std)]
  return np.round(np.stack(columns, axis=1), 5).tolist()


def same_examples(stored: Stored, batch: Mapping) -> bool:
  """Whether a batch begins with the examples that the results were measured on.

  Decoding and rendering may round differently from one computer to another: 0.002 is allowed.
  """
  count = min(len(stored.examples), len(batch['image']))
  found = np.array(statistics(batch, count)) - np.array(stored.examples[:count])
  return bool((np.abs(found) < 0.002).all())


def write(path: Path, stored: Stored) -> None:
  """Writes PATH.json, and PATH.jpg with one line of images per number of steps."""
  lines = [np.concatenate(grid.to_uint8(images), axis=1) for images in stored.pictures.values()]
  buffer = io.BytesIO()
  Image.fromarray(np.concatenate(lines)).save(buffer, 'JPEG', **JPEG)
  files.write(path.with_suffix('.jpg'), buffer.getvalue())
  fields = dict(stored._asdict(), pictures=list(stored.pictures))
  files.write_json(path.with_suffix('.json'), fields)


def read(path: Path) -> Stored:
  """Reads what `write` wrote; the images are square."""
  fields = json.loads(path.with_suffix('.json').read_text())
  with Image.open(path.with_suffix('.jpg')) as image:
    pixels = np.asarray(image.convert('RGB'), np.float32) / 255
  lines = np.split(pixels, len(fields['pictures']))
  images = [np.stack(np.split(line, line.shape[1] // line.shape[0], axis=1)) for line in lines]
  pictures = dict(zip(fields['pictures'], images, strict=True))
  return Stored(**dict(fields, pictures=pictures))
