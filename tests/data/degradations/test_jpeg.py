"""JPEG as arithmetic, against PyTorch's form of it and against files."""

import io

import jax
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import torch_degradation as reference
from cdd import assets
from cdd.data.degradations import jpeg

torch.set_num_threads(1)
compressed = jax.jit(jpeg.compressed, static_argnames='basicsr_compat')
QUALITIES = (30.0, 47.3, 60.0, 88.8, 95.0)


def photograph(height, width):
  """[3, height, width] in [0, 1], whole numbers of 255."""
  picture = Image.open(sorted(assets.PHOTOS.glob('*.jpg'))[0]).convert('RGB')
  picture = picture.resize((width, height), Image.Resampling.LANCZOS)
  return np.asarray(picture, np.float32).transpose(2, 0, 1) / 255


def on_canvas(image, side=80):
  canvas = np.full((3, side, side), 0.3, np.float32)  # What is outside must not enter.
  canvas[:, : image.shape[1], : image.shape[2]] = image
  return canvas


@pytest.mark.parametrize('quality', QUALITIES)
@pytest.mark.parametrize('size', [(64, 64), (51, 37)])
def test_basicsr_compat_is_the_arithmetic_of_basicsr(quality, size):
  image = photograph(*size)
  ours = compressed(on_canvas(image), size, quality=quality, basicsr_compat=True)
  theirs = reference.compressed(torch.tensor(image)[None], torch.tensor([quality]))[0].numpy()
  gap = 255 * np.abs(np.asarray(ours)[:, : size[0], : size[1]] - theirs)
  print(f'greatest difference {gap.max():.1e} of 255')
  assert gap.max() < 1e-3


def file_of(image, quality):
  """(the decoded image, the quantisation tables) of a file."""
  buffer = io.BytesIO()
  picture = Image.fromarray((255 * image).round().astype(np.uint8).transpose(1, 2, 0))
  picture.save(buffer, 'JPEG', quality=quality, subsampling='4:2:0')
  decoded = Image.open(buffer)
  return np.asarray(decoded, np.float32).transpose(2, 0, 1) / 255, decoded.quantization


@pytest.mark.parametrize('quality', [1, 10, 30, 49, 50, 75, 95, 99, 100])
def test_the_tables_are_those_of_a_file(quality):
  _, tables = file_of(photograph(64, 64), quality)
  for ours, theirs in zip(
    jpeg.tables(float(quality), basicsr_compat=False), tables.values(), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(ours).ravel(), theirs)


@pytest.mark.parametrize('quality', [30, 60, 95])
def test_the_default_is_nearer_to_a_file_than_basicsr_is(quality):
  image = photograph(160, 160)
  decoded, _ = file_of(image, quality)
  gaps = [
    255
    * np.abs(
      np.asarray(compressed(image, (160, 160), quality=float(quality), basicsr_compat=c)) - decoded
    ).mean()
    for c in (False, True)
  ]
  print(f'quality {quality}: {gaps[0]:.2f} by default, {gaps[1]:.2f} with basicsr_compat')
  assert gaps[0] < gaps[1] and gaps[0] < 3


@pytest.mark.parametrize('compat', [False, True])
def test_quality_100_loses_little_and_nothing_is_nan(compat):
  image = np.repeat(np.repeat(photograph(32, 32), 2, 1), 2, 2)  # Half the chroma loses nothing.
  out = np.asarray(compressed(image, (64, 64), quality=100.0, basicsr_compat=compat))
  assert 255 * np.abs(out - image).max() < 3


def test_less_quality_is_more_error():
  image = photograph(64, 64)
  errors = [
    np.abs(np.asarray(compressed(image, (64, 64), quality=q)) - image).mean() for q in QUALITIES
  ]
  assert errors == sorted(errors, reverse=True)
