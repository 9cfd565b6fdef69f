"""Owns pictures: images side by side in labelled columns, and their files."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cdd.core import files

GAP, TOP = 4, 18  # Pixels between images, and for each line of the labels.
FORMATS = dict(png=dict(optimize=True), webp=dict(quality=90, method=6))
LIGHT = dict(quality=65)  # Of a webp that every clone holds.


def to_uint8(images: np.ndarray) -> np.ndarray:
  """[0, 1] -> 0 .. 255, rounded and clipped."""
  return np.round(np.clip(np.asarray(images, np.float32), 0, 1) * 255).astype(np.uint8)


def grid(columns: Mapping[str, np.ndarray], *, scale: int = 2) -> np.ndarray:
  """One column per entry, one row per image: label -> [n, H, W, 3] in [0, 1] -> uint8 [·, ·, 3].

  A label may have several lines.
  """
  blocks = [to_uint8(images) for images in columns.values()]
  count, height, width = (min(block.shape[i] for block in blocks) for i in range(3))
  height, width = height * scale, width * scale
  top = TOP * max(label.count('\n') + 1 for label in columns)
  size = (len(blocks) * (width + GAP) - GAP, top + count * (height + GAP) - GAP)
  canvas = Image.new('RGB', size, 'white')
  draw = ImageDraw.Draw(canvas)
  for column, (label, block) in enumerate(zip(columns, blocks, strict=True)):
    left = column * (width + GAP)
    where = (left + width / 2, top / 2)
    draw.text(where, label, 'black', ImageFont.load_default(12), anchor='mm', align='center')
    for row in range(count):
      tile = Image.fromarray(block[row]).resize((width, height), Image.Resampling.LANCZOS)
      canvas.paste(tile, (left, top + row * (height + GAP)))
  return np.asarray(canvas)


def encode(image: np.ndarray, kind: str, **settings) -> bytes:
  """A uint8 image as the bytes of a file: `png`, lossless, or `webp`, a tenth of the size.

  Args:
    settings: Pillow's, in place of those of `FORMATS`.
  """
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, kind, **FORMATS[kind] | settings)
  return buffer.getvalue()


def save_png(path: Path, image: np.ndarray) -> None:
  """Writes a uint8 image."""
  files.write(path, encode(image, 'png'))
