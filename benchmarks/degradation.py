"""Real-ESRGAN's degradation of crops of photographs: ours beside the same stages in PyTorch.

python -m benchmarks.degradation [--rounds=10] [--images=8] [--side=512] [--preset=real_esrgan]

Both make images of a quarter of the side, in float32, with as many threads as the process has
cores. PyTorch's stages are written as they are published (benchmarks/torch_degradation.py): a batch
shares its scales, modes and kinds of noise, which differ from round to round. Ours is the compiled
device stage of the task, where every image has its own, with the enlargement to the full side that
PyTorch's leaves out.
"""

import argparse
import os
from collections.abc import Callable

import jax
import numpy as np
import torch

from benchmarks import clock
from benchmarks import torch_degradation as theirs
from cdd.data import SOURCES, TASKS
from cdd.data.degradations import recipes

FACTOR = 4
RECIPES = dict(real_esrgan=recipes.REAL_ESRGAN, stable_sr=recipes.STABLE_SR)
THREADS = len(os.sched_getaffinity(0))


def crops(count: int, side: int) -> np.ndarray:
  """[count, side, side, 3] of the packaged photographs."""
  source = SOURCES['photos'](('image',), split='train', size=side)
  return np.stack([source[index]['image'] for index in range(count)])


def ours(images: np.ndarray, preset: str) -> Callable[[], None]:
  task = TASKS['super_resolution'](factor=FACTOR, degradation=dict(name=preset))
  finish, rng = jax.jit(task.finish), np.random.default_rng(0)

  def run():
    draws = rng.integers(2**32, size=(len(images), 2), dtype=np.uint32)
    jax.block_until_ready(finish(dict(image=images, draws=draws)))

  return run


def in_torch(images: np.ndarray, preset: str) -> Callable[[], None]:
  batch = torch.tensor(images.transpose(0, 3, 1, 2).copy())
  rng = np.random.default_rng(0)

  def run():
    with torch.no_grad():
      theirs.degraded(batch, rng, RECIPES[preset], FACTOR)

  return run


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=10)
  parser.add_argument('--images', type=int, default=8)
  parser.add_argument('--side', type=int, default=512)
  parser.add_argument('--preset', choices=sorted(RECIPES), default='real_esrgan')
  arguments = parser.parse_args()
  torch.set_num_threads(THREADS)
  images = crops(arguments.images, arguments.side)
  contestants = dict(
    ours=ours(images, arguments.preset), PyTorch=in_torch(images, arguments.preset)
  )
  side, before = arguments.side, os.getloadavg()[0]
  laps = clock.race(contestants, rounds=arguments.rounds)
  print(f'{arguments.preset}: {side} px -> {side // FACTOR} px, {len(images)} images a round')
  shared = 'the cores were shared' if before > 0.5 else 'the cores were idle'
  print(
    f'{THREADS} threads; {shared}: a load of {before:.1f} before, {os.getloadavg()[0]:.1f} after'
  )
  print(clock.table(laps, reference='PyTorch'))
  rates = {name: 1e3 * len(images) / clock.median(row) for name, row in laps.items()}
  print(', '.join(f'{name} {rate:.1f} images/s' for name, rate in rates.items()), end='; ')
  print(f'ours / PyTorch {rates["ours"] / rates["PyTorch"]:.2f}')


if __name__ == '__main__':
  main()
