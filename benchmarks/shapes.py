"""Which shape of prior learns fastest: candidates trained at equal compute, then measured alike.

python -m benchmarks.shapes --train=patches --minutes=15 --candidates=FOLDER
python -m benchmarks.shapes --measure=FOLDER/present,FOLDER/patches --picture=shapes.png

The candidates are those of configs/pretrain.py. A budget counts the processor's minutes on one
core, not the wall's: beside other work the same minutes are the same work. `train` times ten
updates, sets the number of updates that fill the budget, and trains; it resumes where it stopped.

Larger pictures are compared at the size of the small ones, and at the noise that hides as much of a
picture: with four times the positions it is known as well under twice the noise.
"""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from cdd.core import cli
from cdd.core.registry import bind
from cdd.data import SOURCES
from cdd.diffusion import schedules
from cdd.diffusion.process import Pair, compose, decompose
from cdd.metrics import lpips
from cdd.metrics.frechet import FRECHET
from cdd.reports import grid
from cdd.runs import experiment as experiments
from cdd.runs import loop
from cdd.sampling import Pipeline, load
from cdd.training import sharding
from configs import pretrain

TRAIN = flags.DEFINE_enum('train', None, sorted(pretrain.SHAPES), 'The candidate to train.')
MINUTES = flags.DEFINE_float('minutes', 60, "Its budget, in the processor's minutes on one core.")
CANDIDATES = flags.DEFINE_string('candidates', 'runs/shapes', 'The folder of what is trained.')
MEASURE = flags.DEFINE_list('measure', [], 'Trained candidates, or anything cdd.sample takes.')
PICTURE = flags.DEFINE_string('picture', 'runs/shapes/shapes.png', 'The picture of what they draw.')
TIMED = 10  # Updates that are timed.
HELD_OUT, BATCH = 256, 32
TIMES = (0, 200, 400, 600, 800, 1000)  # Of 64 px; 0 is the autoencoder alone.
COMMON = 64  # Pixels at which all are compared.


def rate(config, workdir: Path) -> float:
  """Pictures a second of the processor's time, without the compilation."""
  experiment = experiments.experiment(config, workdir)
  state = experiment.initial()
  for update in range(TIMED + 3):
    if update == 3:
      began = time.process_time()
    batch = sharding.put_batch(next(experiment.batches), experiment.mesh)
    state, metrics = experiment.step(state, batch)
    jax.block_until_ready(metrics)
  experiment.batches.close()
  return TIMED * config.data.batch_size / (time.process_time() - began)


def fill(name: str, minutes: float, folder: Path) -> None:
  """Trains a candidate for the updates that its budget holds."""
  config = pretrain.get_config(f'shape_{name}')
  begun = folder / 'config.json'
  if begun.exists():
    config.steps = json.loads(begun.read_text())['steps']
  else:
    pictures = rate(config, folder) * 60 * minutes
    config.steps = int(pictures / config.data.batch_size)
    print(f'{name}: {config.steps} updates fill {minutes:g} minutes', flush=True)
  began, wall = time.process_time(), time.perf_counter()
  loop.run(config, folder)
  spent = (time.process_time() - began) / 60, (time.perf_counter() - wall) / 60
  print(f'{name}: {spent[0]:.1f} minutes of the processor, {spent[1]:.1f} of the clock')
  print(f'{name}: {os.times().user:.0f} s of the processor in all', flush=True)


class Row(NamedTuple):
  """What a candidate shows.

  Attributes:
    pixels, lpips: time -> the error of the decoded x̂, squared in [0, 1] and by LPIPS.
    distance: the Fréchet distance (the stand-in) of its samples.
    size: of its pictures in pixels.
    parameters: of its U-Net.
  """

  pixels: dict[int, float]
  lpips: dict[int, float]
  distance: float
  size: int
  parameters: int


def held_out(size: int) -> list[dict]:
  """Scenes below 10,000 and photographs of the split 'test': never trained on."""
  source = bind(SOURCES, pretrain.mixture(size, start=0, split='test'), 'source')()
  return [source[index] for index in range(HELD_OUT)]


def smaller(images: jax.Array) -> jax.Array:
  """Means of blocks, down to COMMON pixels a side."""
  b, h, w, c = images.shape
  n = h // COMMON
  return images.reshape(b, h // n, n, w // n, n, c).mean((2, 4))


def alike(schedule: schedules.Schedule, size: int) -> dict[int, int]:
  """Time of the packaged prior -> the time of `schedule` that hides as much of such a picture."""
  noise = lambda table: np.asarray(table.sigmas[1:] / table.alphas[1:])
  wanted = noise(schedules.from_diffusers(pretrain.SCHEDULER)) * size / COMMON
  nearest = lambda t: 1 + int(np.abs(np.log(noise(schedule) / wanted[t - 1])).argmin())
  return {t: nearest(t) if t else 0 for t in TIMES}


def errors(model: Pipeline, examples: list[dict]) -> tuple[dict, dict]:
  """`Row.pixels` and `Row.lpips`, at COMMON pixels and with the same noise for every model."""
  networks = model.networks
  times = alike(networks.schedule, model.size[0])
  raw = model.words([example['caption'] for example in examples], examples[0]['image'].shape[:2])
  raw['image'] = np.stack([example['image'] for example in examples]).astype(np.float32)

  @jax.jit
  def measure(params, raw, t, rng):
    x = networks.encode(params, raw['image'])
    at = jnp.full((x.shape[0], 1, 1, 1), t)
    level = networks.schedule(at)
    z = compose(Pair(x, jax.random.normal(rng, x.shape)), level)
    denoise = networks.denoiser(params, networks.condition(params, raw))
    predicted = decompose(z, denoise(z, at, None), level).x
    decoded = smaller(jnp.clip(networks.decode(params, predicted), 0, 1))
    truth = smaller(raw['image'])
    return jnp.mean((decoded - truth) ** 2), jnp.mean(lpips.of_images(decoded, truth))

  found = {t: [] for t in TIMES}
  for start in range(0, len(examples), BATCH):
    batch = {name: array[start : start + BATCH] for name, array in raw.items()}
    for t in TIMES:
      found[t].append(measure(model.params, batch, times[t], jax.random.key(start)))
  means = {t: np.mean(np.asarray(pairs), axis=0) for t, pairs in found.items()}
  return {t: float(m[0]) for t, m in means.items()}, {t: float(m[1]) for t, m in means.items()}


def distance(model: Pipeline, examples: list[dict]) -> float:
  """The Fréchet distance (the stand-in) of samples of the captions to the pictures."""
  state = FRECHET.init()
  for start in range(0, len(examples), BATCH):
    part = examples[start : start + BATCH]
    captions = [example['caption'] for example in part]
    images = model(captions, seeds=start, guidance=2.0, steps=20, sampler='ddim')
    real = np.stack([example['image'] for example in part]).astype(np.float32)
    state = FRECHET.update(state, smaller(images), smaller(real))
  return FRECHET.result(state)


def measured(path: str) -> tuple[Row, np.ndarray]:
  """A candidate's row, and what it makes of the captions."""
  model = load(path)
  examples = held_out(model.size[0])
  pixels, seen = errors(model, examples)
  sizes = [leaf.size for name, leaf in model.params.items() if name.startswith('unet.')]
  row = Row(pixels, seen, distance(model, examples), model.size[0], sum(sizes))
  images = model(list(pretrain.CAPTIONS), seeds=0, guidance=3.0, steps=50, sampler='ddim')
  return row, np.asarray(images)


def head() -> str:
  """The head of the table."""
  cells = ['candidate', 'pixels', 'parameters, M', *(f'MSE x 1000, t {t}' for t in TIMES)]
  cells += [*(f'LPIPS, t {t}' for t in TIMES), 'Frechet']
  return f'| {" | ".join(cells)} |\n|{"---|" * len(cells)}'


def line(path: str, row: Row) -> str:
  """One row as Markdown."""
  cells = [Path(path).name, f'{row.size}', f'{row.parameters / 1e6:.2f}']
  cells += [f'{1e3 * row.pixels[t]:.2f}' for t in TIMES]
  cells += [f'{row.lpips[t]:.3f}' for t in TIMES]
  return f'| {" | ".join([*cells, f"{row.distance:.1f}"])} |'


def main() -> None:
  if TRAIN.value:
    fill(TRAIN.value, MINUTES.value, Path(CANDIDATES.value) / TRAIN.value)
  columns = {}
  if MEASURE.value:
    print(head())
  for path in MEASURE.value:
    row, images = measured(path)
    enlarged = COMMON * 2 // images.shape[1]
    columns[Path(path).name] = images.repeat(enlarged, 1).repeat(enlarged, 2)
    print(line(path, row), flush=True)
  if columns:
    grid.save_png(Path(PICTURE.value), grid.grid(columns, scale=1))
    print(f'Wrote {PICTURE.value}.')


if __name__ == '__main__':
  cli.run(main)
