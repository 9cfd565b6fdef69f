"""Trains the network that reads depth of rendered scenes (cdd.metrics.depth): 4 minutes on a CPU.

python -m benchmarks.depth_reader --weights=cdd/assets/depth_reader.safetensors

Prints its error on scenes that it was not trained on, beside that of one depth map for all.
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from safetensors.numpy import save
from tqdm import tqdm

from cdd.core import cli, files
from cdd.core.cli import FLAGS
from cdd.data.scenes import Scenes
from cdd.data.tasks.depth import depth
from cdd.metrics import depth as reader

SIZE, BATCH, HELD_OUT = 64, 16, 512


def pairs(start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """(images uint8 [n, H, W, 3], how near each pixel is, uint8 [n, H, W]) of scenes."""
  scenes, task = Scenes(size=SIZE, start=start, length=count), depth()
  drawn = [task.draw(scenes[i], None) for i in tqdm(range(count), desc='rendering')]
  images = np.stack([each['image'] for each in drawn])
  near = np.stack([each['condition'][..., 0] for each in drawn])
  return np.uint8(np.round(255 * images)), np.uint8(np.round(255 * near))


def initial(rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Weights of He's gain, biases of zero."""

  def values(name, shape):
    gain = np.sqrt(2 / np.prod(shape[:-1])) if name.endswith('weight') else 0.0
    return (gain * rng.standard_normal(shape)).astype(np.float32)

  return {name: values(name, shape) for name, shape in reader.shapes().items()}


def main() -> None:
  images, near = pairs(50_000_000, FLAGS.scenes)
  test = pairs(60_000_000, HELD_OUT)
  optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, FLAGS.updates), weight_decay=1e-4)

  def loss(params, images, near):
    images = jnp.float32(images) / 255
    return jnp.abs(reader.read(params, images) - jnp.float32(near) / 255).mean()

  @jax.jit
  def update(params, state, images, near):
    value, gradient = jax.value_and_grad(loss)(params, images, near)
    changes, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, changes), state, value

  rng, began = np.random.default_rng(0), time.perf_counter()
  params = initial(rng)
  state = optimizer.init(params)
  for _ in tqdm(range(FLAGS.updates), desc='training'):
    chosen = rng.integers(len(images), size=BATCH)
    x, y = images[chosen], near[chosen]
    if rng.random() < 0.5:
      x, y = x[:, :, ::-1], y[:, :, ::-1]
    # What a model draws is softer and noisier than what is rendered.
    x = np.clip(x + rng.normal(0, rng.uniform(0, 12), x.shape), 0, 255).astype(np.uint8)
    params, state, _ = update(params, state, x, y)
  stored = reader.packed({name: np.asarray(leaf) for name, leaf in params.items()})
  files.write(Path(FLAGS.weights), save(stored))
  params = reader.unpacked(stored)
  measured = np.mean(
    [float(loss(params, *(a[i : i + BATCH] for a in test))) for i in range(0, HELD_OUT, BATCH)]
  )
  median = np.median(near[:, None] / 255.0, axis=0)
  print(
    f'{FLAGS.updates} updates of {BATCH} on {FLAGS.scenes} scenes in '
    f'{(time.perf_counter() - began) / 60:.1f} min. Mean absolute error on {HELD_OUT} held-out '
    f'scenes: {measured:.4f}; of their median over all scenes: '
    f'{np.abs(test[1] / 255.0 - median).mean():.4f}; with the depth maps of other scenes: '
    f'{np.abs(test[1] / 255.0 - np.roll(test[1], 1, 0) / 255.0).mean():.4f}.'
  )


if __name__ == '__main__':
  flags.DEFINE_string('weights', None, 'The file to write.', required=True)
  flags.DEFINE_integer('scenes', 6000, 'How many scenes it is trained on.', lower_bound=32)
  flags.DEFINE_integer('updates', 3000, 'How many updates.', lower_bound=1)
  cli.run(main)
