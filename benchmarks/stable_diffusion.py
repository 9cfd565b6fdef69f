"""Stable Diffusion 2.1's U-Net at its full width in float32: loading it and evaluating it once.

  python -m benchmarks.stable_diffusion [--rounds=5] [--side=64] [--folder=FOLDER]

Ours beside PyTorch diffusers, with random weights that diffusers wrote. They load by turns, each in
a process of its own, ours with a cache of programs that the first of them fills; they evaluate by
turns in one process.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import diffusers as reference
import jax
import numpy as np
import torch

from benchmarks import clock
from cdd.core import runtime, trees
from cdd.core.types import Text
from cdd.models import components, functional
from cdd.pretrained import diffusers
from configs.stable_diffusion import SD21

UNET = SD21['unet']
THREADS = len(os.sched_getaffinity(0))


def write(folder: Path) -> None:
  """The random U-Net, in diffusers' layout."""
  torch.manual_seed(0)
  reference.UNet2DConditionModel.from_config(UNET).save_pretrained(folder / 'unet')


def inputs(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(z [1, side, side, 4], index [1], states of the text [1, 77, d])."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return normal(1, side, side, 4), np.array([437], np.int32), normal(1, 77, 1024)


def ours(folder: Path, side: int, figures: dict):
  """() -> the prediction; loading, with the parameters on the device, and compiling are timed."""
  with measured(figures, 'load'):
    loaded = diffusers.load(folder, place=lambda path, array: jax.device_put(array))
  params = trees.select(loaded.params, 'unet')
  apply, _ = functional.abstract(lambda: components.make('unet', loaded.configs['unet']))
  z, index, states = inputs(side)
  run = jax.jit(lambda params, *args: apply(params, '__call__', *args))
  with measured(figures, 'compile'):
    run = run.lower(params, z, index, Text(states)).compile()
  return lambda: jax.block_until_ready(run(params, z, index, Text(states)))


def theirs(folder: Path, side: int, figures: dict):
  """The same; their file is mapped, and a page of it read when it is first used."""
  with measured(figures, 'load'):
    unet = reference.UNet2DConditionModel.from_pretrained(folder / 'unet').eval()
  with measured(figures, 'touch'):
    sum(float(parameter.sum()) for parameter in unet.parameters())
  z, index, states = map(torch.tensor, inputs(side))
  z = z.permute(0, 3, 1, 2).contiguous()

  def run():
    with torch.inference_mode():
      return unet(z, index, states).sample.permute(0, 2, 3, 1).numpy()

  return run


SIDES = dict(ours=ours, theirs=theirs)


@contextlib.contextmanager
def measured(figures: dict, name: str):
  """Adds a part's seconds, those of its threads, and the most GiB held by its end."""
  start, work = time.perf_counter(), time.process_time()
  yield
  figures[f'{name}, CPU s'] = time.process_time() - work
  status = Path('/proc/self/status').read_text()
  peak = int(re.search(r'VmHWM:\s+(\d+)', status)[1]) / 2**20
  figures |= {f'{name}, s': time.perf_counter() - start, f'peak after {name}, GiB': peak}


def loading(folder: Path, side: int, rounds: int) -> None:
  """Prints the medians of loading, and how long compiling takes without and with the cache."""
  seen = {name: [] for name in SIDES}
  with tempfile.TemporaryDirectory() as cache:
    settings = dict(os.environ, JAX_COMPILATION_CACHE_DIR=cache)
    for _ in range(rounds):
      for name in SIDES:
        command = [sys.executable, '-m', 'benchmarks.stable_diffusion', f'--part={name}']
        command += [f'--folder={folder}', f'--side={side}']
        out = subprocess.run(command, env=settings, check=True, capture_output=True, text=True)
        seen[name].append(json.loads(out.stdout.splitlines()[-1]))
  size = sum(path.stat().st_size for path in folder.glob('unet/*.safetensors')) / 2**30
  print(f'a checkpoint of {size:.2f} GiB; medians (and least) of {rounds} processes each')
  for name, rows in seen.items():
    values = {key: [row[key] for row in rows] for key in rows[0]}
    cold = values.get('compile, s', [])[:1]
    if cold:
      del values['compile, s'][0]
    shown = [f'{key} {statistics.median(v):.2f} ({min(v):.2f})' for key, v in values.items() if v]
    print(f'{name}: {"; ".join(shown)}', *(f'; compile without the cache {s:.1f} s' for s in cold))


def evaluating(folder: Path, side: int, rounds: int) -> None:
  """Prints the times of one evaluation, and how far the results are apart."""
  contestants = {name: make(folder, side, {}) for name, make in SIDES.items()}
  got, expected = (np.asarray(run()) for run in contestants.values())
  gap = np.abs(got - expected).max() / np.abs(expected).max()
  print(
    f'{8 * side} px, batch 1, {THREADS} threads; the outputs differ by {gap:.1e} of the largest'
  )
  print(clock.table(clock.race(contestants, rounds=rounds), reference='theirs'))


def main():
  runtime.configure()
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--side', type=int, default=64, help='of the latents')
  parser.add_argument('--folder', type=Path, help='where the random U-Net is written')
  parser.add_argument('--part', choices=SIDES, help='loads in this process and prints JSON')
  arguments = parser.parse_args()
  torch.set_num_threads(THREADS)
  if arguments.part:
    figures = {}
    jax.devices()
    with measured(figures, 'imports'):
      pass
    SIDES[arguments.part](arguments.folder, arguments.side, figures)
    print(json.dumps(figures))
    return
  with tempfile.TemporaryDirectory() as temporary:
    folder = arguments.folder or Path(temporary)
    if not (folder / 'unet').exists():
      write(folder)
    loading(folder, arguments.side, arguments.rounds)
    evaluating(folder, arguments.side, arguments.rounds)


if __name__ == '__main__':
  main()
