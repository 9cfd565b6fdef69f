"""Super-resolution beyond the size of training: at once or in tiles, and how sides are padded.

python -m benchmarks.large [--pictures=FOLDER]

The first table is of four held-out photographs at 256 pixels, four times the side of training. The
second is of all eight at 56 x 72 pixels, which the U-Net does not halve evenly: nothing is padded
(its latents are then of odd sides), or the condition is padded to 64 x 80 in each way of
`numpy.pad`; the error at the padded edges is that of the last eight rows and columns.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from cdd import assets
from cdd.data import images as pictures
from cdd.data.degradations.simple import simple
from cdd.metrics import METRICS
from cdd.reports import grid
from cdd.sampling import load

FACTOR, STEPS, EDGE = 8, 4, 8
FOUR = ('bridge', 'garden', 'lady_bird', 'picosdeeuropa')
EIGHT = (*FOUR, 'colorful_cups', 'dragonfly', 'fallen_leaf', 'wine')
PADS = ('edge', 'reflect', 'symmetric', 'constant')


def photographs(names, side: int) -> np.ndarray:
  """The middle squares, reduced to `side` pixels, float32 [n, side, side, 3]."""
  out = []
  for name in names:
    photo = pictures.opened(str(assets.PHOTOS / f'{name}.jpg')).convert('RGB')
    least = min(photo.size)
    left, top = ((length - least) // 2 for length in photo.size)
    photo = photo.crop((left, top, left + least, top + least))
    out.append(np.float32(photo.resize((side, side), Image.Resampling.LANCZOS)) / 255)
  return np.stack(out)


def conditions(model, real: np.ndarray) -> np.ndarray:
  """What the model sees of pictures, reduced as in its training."""
  rng, degrade = np.random.default_rng(0), simple(factor=FACTOR).on_host
  small = [Image.fromarray(degrade(image, rng)) for image in real]
  return np.stack([model.task.from_picture(image) for image in small])


def measured(name: str, images: np.ndarray, real: np.ndarray) -> float:
  metric = METRICS[name]
  return metric.result(metric.update(metric.init(), images, real))


def psnr(images: np.ndarray, real: np.ndarray, *, edges: bool) -> float:
  """In decibels, of all pixels, or of the last rows and columns alone."""
  errors = (images - real) ** 2
  if edges:
    errors = np.concatenate([errors[:, -EDGE:].ravel(), errors[:, :-EDGE, -EDGE:].ravel()])
  return -10 * float(np.log10(errors.mean()))


def sizes(model) -> dict[str, np.ndarray]:
  """Prints the first table; its images by column."""
  real = photographs(FOUR, 256)
  shown = dict(condition=conditions(model, real))
  for tile in (None, 32, 64, 128):
    name = f'tiles of {tile}' if tile else 'at once'
    shown[name] = model('', shown['condition'], seeds=0, steps=STEPS, tile=tile)
  print(f'{", ".join(FOUR)} at 256 pixels, {STEPS} steps')
  print('| | LPIPS | PSNR |\n|---|---|---|')
  for name, images in shown.items():
    print(f'| {name} | {measured("lpips", images, real):.3f} | ', end='')
    print(f'{psnr(images, real, edges=False):.2f} |', flush=True)
  return shown | dict(photograph=real)


def pads(model) -> None:
  """Prints the second table."""
  height, width = 56, 72
  real = photographs(EIGHT, 256)[:, 100 : 100 + height, 92 : 92 + width]
  condition = conditions(model, real)
  more = [(0, 0), *((0, -side % model.multiple) for side in (height, width)), (0, 0)]
  uneven = model._replace(multiple=model.networks.factor)  # It then pads nothing.
  print(f'\n{", ".join(EIGHT)} at {height} x {width} pixels, {STEPS} steps')
  print('| padding | LPIPS | PSNR | PSNR at the padded edges |\n|---|---|---|---|')
  for name in ('none', *PADS):
    given = condition if name == 'none' else np.pad(condition, more, mode=name)
    images = []
    for seed in range(4):
      made = uneven('', given, seeds=100 * seed, steps=STEPS, tile=None)
      images.append(made[:, :height, :width])
    images, repeated = np.concatenate(images), np.concatenate([real] * 4)
    both = [psnr(images, repeated, edges=edges) for edges in (False, True)]
    print(f'| {name} | {measured("lpips", images, repeated):.4f} | {both[0]:.2f} | {both[1]:.2f} |')


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--pictures', help='A folder for a sheet of the first table.')
  arguments = parser.parse_args()
  model = load('packaged:super_resolution')
  shown = sizes(model)
  if arguments.pictures:
    grid.save_png(Path(arguments.pictures) / 'large.png', grid.grid(shown, scale=1))
  pads(model)


if __name__ == '__main__':
  main()
