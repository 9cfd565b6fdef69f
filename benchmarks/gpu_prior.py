"""Trains the prior on one GPU within minutes: pictures, then the autoencoder, then the U-Net.

python -m benchmarks.gpu_prior --phase=render --work=FOLDER --chunks=600 --processes=10
python -m benchmarks.gpu_prior --phase=train --work=FOLDER --budget=6

`render` runs beside `train` and writes chunks of pictures, which it reads as they come. All data
lie on the device. The budget counts from the start of the process; the learning rate follows the
share of it that is spent, so that it ends at 0. The configs are configs/pretrain.py:gpu_*.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from cdd.core import cli, files
from cdd.core.registry import bind
from cdd.core.types import Params
from cdd.data import SOURCES
from cdd.models.networks import Networks
from cdd.pretrained import diffusers, priors
from cdd.runs.objective import objective
from cdd.runs.program import divide
from cdd.training import state as states
from cdd.training import step as steps
from cdd.training.optimizer import OPTIMIZERS
from cdd.training.targets import TARGETS
from configs import pretrain

PHASE = flags.DEFINE_enum('phase', None, ['render', 'train'], 'What to do.', required=True)
HOME = flags.DEFINE_string('work', None, 'Where everything is written.', required=True)
MINUTES = flags.DEFINE_float('budget', 5, 'Minutes for everything, compilation included.')
AUTOENCODER = flags.DEFINE_float('autoencoder', 0.37, "The autoencoder's share of it.")
CHUNKS = flags.DEFINE_integer('chunks', 600, 'Chunks of pictures to render.')
PROCESSES = flags.DEFINE_integer('processes', 10, 'Processes that render.')
FIRST = flags.DEFINE_integer('first', 24, 'Chunks that a training waits for.')
ROOM = flags.DEFINE_integer('room', 128, 'Chunks that the autoencoder holds on the device.')
BATCH = flags.DEFINE_integer('batch', 0, "Examples of an update; the config's if 0.")
CALL = flags.DEFINE_integer('call', 20, 'Updates of one call of the device.')
CHUNK, EVERY = 512, 10.0  # Pictures of a chunk; seconds between two lines.
BEGUN = time.perf_counter()


def say(text: str) -> None:
  print(f'{time.perf_counter() - BEGUN:6.1f} s  {text}', flush=True)


# Pictures.


def render(number: int, *, folder: Path, spec: dict) -> None:
  """Writes a chunk: pictures as uint8, and their captions."""
  captions, pictures = folder / f'{number:05}.json', folder / f'{number:05}.npy'
  if captions.exists():
    return
  source = bind(SOURCES, spec, 'source')()
  examples = [source[index] for index in range(number * CHUNK, (number + 1) * CHUNK)]
  with files.atomic(pictures) as new, new.open('wb') as file:
    np.save(file, np.stack([np.round(255 * e['image']).astype(np.uint8) for e in examples]))
  files.write_json(captions, [e['caption'] for e in examples])


def render_all(folder: Path) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  work = partial(render, folder=folder, spec=pretrain.gpu_prior().data.source.to_dict())
  with multiprocessing.get_context('spawn').Pool(PROCESSES.value) as pool:
    for done, _ in enumerate(pool.imap_unordered(work, range(CHUNKS.value)), 1):
      if done % 50 == 0:
        say(f'rendered {done * CHUNK:,} pictures')


def chunks(folder: Path, first: int) -> Iterator[tuple[np.ndarray, list[str]] | None]:
  """The chunks (pictures, captions) in order; None while the next is not there yet."""
  number = 0
  while True:
    at = folder / f'{number:05}.json'
    if at.exists():
      yield np.load(at.with_suffix('.npy')), json.loads(at.read_text())
      number += 1
    elif number < first:
      time.sleep(0.2)
    else:
      yield None


# Training.


class Store:
  """Arrays on the device that fill up chunk by chunk."""

  def __init__(self, room: int, like: dict[str, jax.ShapeDtypeStruct]):
    self.room, self.filled = room, 0
    self.arrays = {k: jnp.zeros((room * CHUNK, *v.shape[1:]), v.dtype) for k, v in like.items()}

  def add(self, chunk: dict[str, jax.Array]) -> None:
    self.arrays = _put(self.arrays, chunk, self.filled)
    self.filled += CHUNK

  @property
  def full(self) -> bool:
    return self.filled >= self.room * CHUNK


@partial(jax.jit, donate_argnums=0)
def _put(arrays, chunk, start):
  write = lambda all_, part: jax.lax.dynamic_update_slice_in_dim(all_, part, start, 0)
  return jax.tree.map(write, arrays, chunk)


class Updates:
  """The first state, and CALL updates in one program, which compiles in the background."""

  def __init__(self, config, networks, draw: Callable, params, room: int, like):
    """`draw`: (arrays of a batch, rng) -> what the objective reads."""
    optimizer = bind(OPTIMIZERS, config.optimizer, 'optimizer')(steps=config.steps)
    follow, loss = bind(TARGETS, config.target, 'target'), objective(config, networks)

    @partial(jax.jit, donate_argnums=0)
    def many(state, data, filled, rng, rate):
      """`rate`: the factor of the learning rate, by the share of the budget that is spent."""
      one = steps.make(loss, optax.chain(optimizer, optax.scale(rate)), follow)

      def body(state, _):
        key = jax.random.fold_in(rng, state.step)
        chosen = jax.random.randint(key, (config.data.batch_size,), 0, filled)
        batch = draw(jax.tree.map(lambda leaf: leaf[chosen], data), key)
        return one(state, {}, batch, rng)

      state, metrics = jax.lax.scan(body, state, None, length=CALL.value)
      return state, jax.tree.map(jnp.mean, metrics)

    self.create = jax.jit(lambda p: states.create(p, optax.chain(optimizer, optax.scale(1.0))))
    data = {
      name: jax.ShapeDtypeStruct((room * CHUNK, *leaf.shape[1:]), leaf.dtype)
      for name, leaf in like.items()
    }
    state, rng = jax.eval_shape(self.create, params), jax.random.key(0)
    lowered = many.lower(state, data, np.int32(0), rng, np.float32(0))

    def compile_():
      begun = time.perf_counter()
      compiled = lowered.compile()
      say(f'{config.name}: compiled in {time.perf_counter() - begun:.0f} s')
      return compiled

    self._compiled = futures.ThreadPoolExecutor(1).submit(compile_)

  def __call__(self, state, data, filled: int, rng, rate: float):
    return self._compiled.result()(state, data, np.int32(filled), rng, np.float32(rate))


def tail(share: float, hold: float) -> float:
  """The learning rate's factor: 1 until the share `hold`, then straight down to 0."""
  return float(np.clip((1 - share) / (1 - hold), 0, 1))


def train(config, updates, params, store, more, *, until: float, hold: float, keep=None):
  """Trains until `until`, seconds of the process; the averaged parameters.

  Args:
    more: adds to the store what has come.
    keep: what is called with the averaged parameters every minute.

  Raises:
    FloatingPointError: a loss is not finite.
  """
  state, rng = updates.create(params), jax.random.key(config.seed)
  begun = shown = kept = time.perf_counter()
  end, done = BEGUN + until, 0
  while (now := time.perf_counter()) < end:
    # The first call compiles: what it costs is not of the schedule.
    rate = tail((now - begun) / (end - begun), hold)
    state, metrics = updates(state, store.arrays, store.filled, rng, rate)
    more()
    metrics = {name: float(value) for name, value in metrics.items()}
    if not np.isfinite(metrics['loss']):
      raise FloatingPointError(f'{config.name}: the loss is {metrics["loss"]}.')
    done += CALL.value
    after = time.perf_counter()
    begun = begun if done > CALL.value else after
    if after - shown > EVERY:
      speed = CALL.value * config.data.batch_size / (after - now)
      values = ' '.join(f'{name} {value:.4f}' for name, value in sorted(metrics.items()))
      say(
        f'{config.name}: {done:,} updates, {speed:,.0f} examples/s, '
        f'{store.filled:,} held; rate {rate:.2f} {values}'
      )
      shown = after
    if keep and after - kept > 60:
      keep(jax.tree.map(np.asarray, state.evaluated))
      kept = time.perf_counter()
  seen = done * config.data.batch_size
  took = time.perf_counter() - begun
  say(f'{config.name}: ended after {done:,} updates, {seen:,} examples, in {took:.0f} s')
  return jax.tree.map(np.asarray, state.evaluated)


class Part(NamedTuple):
  """A training whose program is being compiled.

  Attributes:
    pretrained, networks, params: what is trained, and all that it belongs to.
    updates: its program.
    like: the arrays of a chunk of its data.
  """

  config: Any
  pretrained: diffusers.Pretrained
  networks: Networks
  params: Params
  updates: Updates
  like: dict[str, jax.ShapeDtypeStruct]


def opened(config, home: Path):
  """(pretrained, networks, trainable parameters) of a config, its batch that of the flags."""
  if BATCH.value:
    config.data.batch_size = BATCH.value
  pretrained = priors.load(config.prior, home, ())
  networks, _ = priors.networks(config.model, pretrained)
  return pretrained, networks, divide(config, pretrained.params)[0]


def of_autoencoder(home: Path) -> Part:
  config = pretrain.gpu_autoencoder()
  pretrained, networks, params = opened(config, home)
  size = config.data.held_out.sources[0]['size']
  like = dict(image=jax.ShapeDtypeStruct((CHUNK, size, size, 3), jnp.uint8))
  updates = Updates(config, networks, as_pictures, params, ROOM.value, like)
  return Part(config, pretrained, networks, params, updates, like)


def of_prior(home: Path) -> Part:
  config = pretrain.gpu_prior()
  pretrained, networks, params = opened(config, home)
  side = config.data.held_out.sources[0]['size'] // networks.factor
  empty = priors.reader(pretrained)('')['tokens']
  like = dict(
    image=jax.ShapeDtypeStruct((CHUNK, side, side, networks.channels), jnp.bfloat16),
    tokens=jax.ShapeDtypeStruct((CHUNK, len(empty)), jnp.int16),
  )
  draw = partial(as_latents, empty=empty, dropout=config.data.caption_dropout)
  updates = Updates(config, networks, draw, params, CHUNKS.value, like)
  return Part(config, pretrained, networks, params, updates, like)


def as_pictures(batch, rng):
  del rng
  return dict(image=batch['image'].astype(jnp.float32) / 255)


def as_latents(batch, rng, *, empty, dropout: float):
  dropped = jax.random.bernoulli(jax.random.fold_in(rng, 1), dropout, (len(batch['tokens']), 1))
  words = jnp.where(dropped, empty, batch['tokens']).astype(jnp.int32)
  return dict(image_latents=batch['image'].astype(jnp.float32), tokens=words)


def fill(store: Store, came: Iterator, make: Callable, most: int) -> None:
  """Adds to the store at most so many of the chunks that have come."""
  for _ in range(most):
    if store.full or (chunk := next(came)) is None:
      return
    store.add(make(*chunk))


def train_autoencoder(part: Part, home: Path) -> diffusers.Pretrained:
  """The trained autoencoder, which is written to `home` too."""
  store, came = Store(ROOM.value, part.like), chunks(home / 'pictures', FIRST.value)
  make = lambda images, captions: dict(image=images)
  fill(store, came, make, FIRST.value)
  say(f'{part.config.name}: starts with {store.filled:,} pictures')
  until = AUTOENCODER.value * 60 * MINUTES.value
  more = lambda: fill(store, came, make, 8)
  params = train(part.config, part.updates, part.params, store, more, until=until, hold=0.4)
  trained = part.pretrained._replace(params={**part.pretrained.params, **params})
  trained = finished(trained, part.networks, store)
  diffusers.save(trained, home / 'autoencoder')
  return trained


def train_prior(part: Part, vae: diffusers.Pretrained, home: Path) -> None:
  """Writes the prior to `home`, also once a minute while it trains."""
  whole = part.pretrained
  configs = {**whole.configs, 'vae': vae.configs['vae']}
  whole = whole._replace(configs=configs, params={**whole.params, **vae.params})

  def keep(params):
    diffusers.save(whole._replace(params={**whole.params, **params}), home / 'prior')

  make = encoded(part, vae)
  store, came = Store(CHUNKS.value, part.like), chunks(home / 'pictures', FIRST.value)
  fill(store, came, make, 96)
  say(f'{part.config.name}: starts with {store.filled:,} latents')
  settings = dict(until=60 * MINUTES.value, hold=0.4, keep=keep)
  more = lambda: fill(store, came, make, 8)
  keep(train(part.config, part.updates, part.params, store, more, **settings))


def encoded(part: Part, vae: diffusers.Pretrained) -> Callable:
  """(pictures, captions) of a chunk -> its latents and tokens."""
  config, read = vae.configs['vae'], priors.reader(part.pretrained)
  networks = part.networks._replace(scale=config.scaling_factor, shift=config.shift_factor)
  params = jax.device_put(vae.params)

  @jax.jit
  def encode(params, images):
    return networks.encode(params, images.astype(jnp.float32) / 255).astype(jnp.bfloat16)

  def make(images, captions):
    rows = np.stack([read(caption)['tokens'] for caption in captions]).astype(np.int16)
    return dict(image=encode(params, images), tokens=rows)

  return make


def train_all(home: Path) -> None:
  """Trains one after the other; both programs compile from the start."""
  autoencoder, prior = of_autoencoder(home), of_prior(home)
  train_prior(prior, train_autoencoder(autoencoder, home), home)


def finished(vae: diffusers.Pretrained, networks, store: Store) -> diffusers.Pretrained:
  """The autoencoder, in float16 as it ships, with the scale that makes its latents unit."""
  params = {path: np.float32(np.float16(leaf)) for path, leaf in vae.params.items()}
  images = jax.tree.map(lambda leaf: leaf[:CHUNK], store.arrays)
  moments = jax.jit(lambda tree, raw: networks.moments(tree, 2 * raw['image'] - 1)[0])
  means = np.asarray(moments(params, as_pictures(images, None)), np.float32)
  scale = dict(scaling_factor=float(1 / means.std()), shift_factor=float(means.mean()))
  say(f'latents: {scale}, std by channel {np.round(means.std((0, 1, 2)), 3)}')
  return vae._replace(params=params, configs=dict(vae=vae.configs['vae']._replace(**scale)))


def main() -> None:
  home = Path(HOME.value)
  home.mkdir(parents=True, exist_ok=True)
  say(
    f'{PHASE.value}: jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores'
  )
  if PHASE.value == 'render':
    render_all(home / 'pictures')
  else:
    train_all(home)


if __name__ == '__main__':
  cli.run(main)
