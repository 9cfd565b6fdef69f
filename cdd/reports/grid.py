"""Owns pictures: images side by side in labelled columns, as PNG."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cdd.core import files

GAP, TOP = 4, 18  # Pixels between images, and for the labels.


def to_uint8(images: np.ndarray) -> np.ndarray:
  """[0, 1] -> 0 .. 255, rounded and clipped."""
  return np.round(np.clip(np.asarray(images, np.float32), 0, 1) * 255).astype(np.uint8)


def grid(columns: Mapping[str, np.ndarray], *, scale: int = 2) -> np.ndarray:
  """One column per entry, one row per image: label -> [n, H, W, 3] in [0, 1] -> uint8 [·, ·, 3]."""
  blocks = [to_uint8(images) for images in columns.values()]
  count, height, width = (min(block.shape[i] for block in blocks) for i in range(3))
  height, width = height * scale, width * scale
  size = (len(blocks) * (width + GAP) - GAP, TOP + count * (height + GAP) - GAP)
  canvas = Image.new('RGB', size, 'white')
  draw = ImageDraw.Draw(canvas)
  for column, (label, block) in enumerate(zip(columns, blocks, strict=True)):
    left = column * (width + GAP)
    draw.text((left + width / 2, TOP / 2), label, 'black', ImageFont.load_default(12), anchor='mm')
    for row in range(count):
      tile = Image.fromarray(block[row]).resize((width, height), Image.Resampling.LANCZOS)
      canvas.paste(tile, (left, TOP + row * (height + GAP)))
  return np.asarray(canvas)


def png(image: np.ndarray) -> bytes:
  """A uint8 image as a PNG file's bytes."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


def save_png(path: Path, image: np.ndarray) -> None:
  """Writes a uint8 image."""
  files.write(path, png(image))
