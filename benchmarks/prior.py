"""What a prior makes of captions alone: its error of v on held-out scenes, and a picture.

The error also with other captions, in which each shape, or colour, has become another: how far it
rises says how well the prior tells these words apart.

python -m benchmarks.prior [--model=packaged,FOLDER] [--out=docs/results/prior.webp]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from cdd.core import files
from cdd.core.types import Batch, Nets
from cdd.data.scenes import Scenes, world
from cdd.methods import finetune
from cdd.reports import grid
from cdd.sampling import Pipeline, load
from configs.common import SIMPLE
from configs.pretrain import CAPTIONS

MODEL = flags.DEFINE_list('model', 'packaged', 'What cdd.sample takes; several, with commas.')
OUT = flags.DEFINE_string('out', 'docs/results/prior.webp', 'The picture.')
flags.register_validator(
  'model', lambda paths: len({Path(p).name for p in paths}) == len(paths), 'Two of the same name.'
)
HELD_OUT, SIZE = 256, 64  # Scenes below 10,000 are never trained on.
TIMES = (200, 400, 600, 800, 1000)


def turned(words: Sequence[str]) -> dict[str, str]:
  """Each word -> the one after it."""
  return dict(zip(words, (*words[1:], words[0]), strict=True))


# What becomes of the words of a caption.
EXCHANGED = dict(
  shape=dict(turned(('sphere', 'cube', 'cylinder')), ball='block', block='cylinder'),
  colour=turned(tuple(world.COLORS)),
)


def errors(model: Pipeline, exchanged: Mapping[str, str] | None = None) -> dict[int, float]:
  """Time -> the mean squared error of v over held-out scenes, the same noise for every model.

  Args:
    exchanged: words of the captions -> those that take their place.
  """

  def read(caption: str) -> str:
    return ' '.join((exchanged or {}).get(word, word) for word in caption.split())

  networks = model.networks
  source = Scenes(size=SIZE, **SIMPLE)
  scenes = [source[index] for index in range(HELD_OUT)]
  raw = model.words([read(scene['caption']) for scene in scenes], (SIZE, SIZE))
  raw['image'] = np.stack([scene['image'] for scene in scenes]).astype(np.float32)

  @jax.jit
  def measure(params, raw, t):
    nets = Nets(online=networks.denoiser(params, networks.condition(params, raw)))
    batch = Batch(networks.encode(params, raw['image']))
    same = lambda rng, count, low, high: jnp.full((count, 1, 1, 1), t)
    settings = dict(schedule=networks.schedule, num_steps=networks.schedule.num_steps)
    return finetune.loss(nets, batch, jax.random.key(0), 0, sample_t=same, **settings)[0]

  return {t: float(measure(model.params, raw, t)) for t in TIMES}


def report(name: str, model: Pipeline) -> None:
  """Prints the errors of a model."""
  found = errors(model)
  mean = np.mean([*found.values()])
  print(f'{name}: error of v on {HELD_OUT} held-out scenes, mean {mean:.4f}')
  print('  '.join(f't {t}: {error:.4f}' for t, error in found.items()))
  for kind, exchanged in EXCHANGED.items():
    rises = {t: error - found[t] for t, error in errors(model, exchanged).items()}
    print(f'every {kind} another:', '  '.join(f't {t}: {rise:+.4f}' for t, rise in rises.items()))


def main(arguments):
  del arguments
  columns, settings = {}, dict(guidance=3.0, steps=50, sampler='ddim')
  for path in MODEL.value:
    model, name = load(path), Path(path).name
    report(name, model)
    columns[name] = model(list(CAPTIONS), seeds=0, **settings)
  files.write(Path(OUT.value), grid.encode(grid.grid(columns, scale=1), 'webp', **grid.LIGHT))
  print(f'{OUT.value}, guidance 3, by row:', *CAPTIONS, sep='\n  ')


if __name__ == '__main__':
  app.run(main)
