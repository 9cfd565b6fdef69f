"""Owns the data of a run: training batches, held-out batches, latents encoded ahead."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.registry import make
from cdd.core.words import counted
from cdd.data import SOURCES, TASKS, cache, pipeline, transforms
from cdd.data.prepared import Prepared
from cdd.data.tasks.task import Task
from cdd.data.transforms import several
from cdd.models.networks import Networks
from cdd.training import sharding

FEW = 50  # Of fewer held-out pictures a line says how many they are.


class Stream(NamedTuple):
  """Where examples come from, and what becomes of them.

  Attributes:
    draw: (example, rng) -> dict of arrays.
    tokenize: what reads captions, where the source brings it.
    finish: None, or what is left to do on the devices (`Task.finish`).
  """

  source: object
  draw: Callable
  tokenize: Callable | None = None
  finish: Callable | None = None


def task_of(config) -> Task:
  """The task of a config."""
  return make(TASKS, config.data.task, 'task')


def training(config, workdir: Path | None = None) -> Stream:
  """The examples that a run trains on; those that are damaged are listed in its workdir."""
  task = task_of(config)
  source = listing(make(SOURCES, config.data.source, 'source', task.needs), workdir)
  if isinstance(source, Prepared):
    return Stream(source, source.draw, source.no_prompt)
  return Stream(source, task.example, finish=task.finish)


def listing(source, workdir: Path | None):
  """A source that lists what is damaged in skipped.jsonl of a workdir, if it can be.

  Process n > 0 has its own file, skipped_n.jsonl: a shared disk need not order what two append.
  """
  if workdir is not None and hasattr(source, 'list_skipped'):
    process = jax.process_index()
    source.list_skipped(workdir / (f'skipped_{process}.jsonl' if process else 'skipped.jsonl'))
  return source


def said_of_skipped(workdir: Path) -> str:
  """How many examples are listed as damaged in a workdir, and where; empty if none is."""
  counts = {path: len(path.read_text().splitlines()) for path in workdir.glob('skipped*.jsonl')}
  listed = counted(sum(counts.values()), 'damaged example')
  places = ', '.join(map(str, sorted(counts)))
  return f'Skipped {listed}, listed in {places}.' if any(counts.values()) else ''


def captions(source, most: int = 4000):
  """The captions of the first examples, for a new tokenizer."""
  return (source[index]['caption'] for index in range(min(most, len(source))))


def batches(config, stream: Stream, tokenize: Callable, mesh) -> pipeline.Batches:
  """The training batches: what of them lies on the devices of this process."""
  return pipeline.Batches(
    stream.source,
    stream.draw,
    stream.tokenize or tokenize,
    batch_size=config.data.batch_size,
    seed=config.seed,
    dropout=dropout(config.data),
    threads=config.data.threads,
    workers=config.data.workers,
    rows=sharding.examples(mesh, config.data.batch_size),
  )


def dropout(settings) -> pipeline.Dropout:
  """What training leaves out.

  Raises:
    UserError: more than everything.
  """
  fields = ('caption_dropout', 'joint_dropout', 'condition_dropout')
  shares = {name: settings.get(name, 0.0) for name in fields}
  if sum(shares.values()) > 1:
    raise UserError(f'The shares of dropped examples exclude one another and exceed 1: {shares}.')
  return pipeline.Dropout(*shares.values())


class HeldOut(NamedTuple):
  """The held-out examples of a run, alike for all seeds.

  Attributes:
    source: where they come from, in their order.
    draw: (example, rng) -> dict of arrays.
    tokenize: what reads captions.
    finish: what completes a batch of arrays.
  """

  source: object
  draw: Callable
  tokenize: Callable
  finish: Callable

  def __call__(self, count: int, batch_size: int) -> list[dict]:
    """The first `count` examples in fixed batches."""
    settings = dict(batch_size=batch_size, seed=0, count=count)
    drawn = pipeline.held_out(self.source, self.draw, self.tokenize, **settings)
    return [self.finish(batch) for batch in drawn]

  def pictures(self, count: int) -> int:
    """Of how many different pictures the first `count` examples are."""
    return transforms.pictures(self.source, count)


def held_out(config, tokenize: Callable, workdir: Path | None = None) -> HeldOut:
  """The held-out examples; if what is evaluated is of few pictures, a line says so.

  The source is made here, once: a folder's headers are read, and warned of, once per run.

  Raises:
    UserError: the source is one of prepared examples, or has fewer than are evaluated.
  """
  task = task_of(config)
  spec = of_one_size(config.data.held_out)
  source = listing(make(SOURCES, spec, 'source', task.needs), workdir)
  if isinstance(source, Prepared):
    raise UserError(
      f'config.data.held_out is {source!r}, which holds no pictures to compare with; give the '
      'source that it was prepared of.'
    )
  made = HeldOut(source, task.example, tokenize, finishing(task.finish))
  if settings := config.evaluation:  # A mistake there must not cost a training.
    count = settings.count
    pipeline.check_held_out(source, batch_size=settings.batch_size, count=count)
    if jax.process_index() == 0 and (said := few(made.pictures(count), count)):
      print(f'{said} Their metrics say little about others (config.data.held_out).', flush=True)
  return made


def few(pictures: int, count: int) -> str:
  """A sentence on held-out examples that are crops of few pictures; empty if they are not."""
  if not pictures < min(count, FEW):
    return ''
  return f'The {count} held-out examples are crops of no more than {counted(pictures, "picture")}.'


def of_one_size(spec) -> dict:
  """A source with the first of several sizes: held-out pictures have one."""
  return dict(spec, size=spec['size'][0]) if several(spec.get('size')) else dict(spec)


def finishing(finish: Callable | None) -> Callable[[dict], dict]:
  """Finishes batches of NumPy arrays on a device of this process (`Task.finish`)."""
  if finish is None:
    return lambda batch: batch
  compiled = jax.jit(finish)
  return lambda batch: jax.device_get(compiled(batch))


def as_uint8(images: np.ndarray) -> np.ndarray:
  """Pixels in [0, 1] as they are written to a cache."""
  return np.round(255 * images).astype(np.uint8)


def encoded(settings, stream: Stream, networks: Networks, prior, folder: Path) -> Stream:
  """The first `settings.cache` examples, encoded once and written below `folder`.

  Runs with the same data and the same autoencoder share what was encoded; process 0 encodes.
  """
  if getattr(stream.source, 'buckets', None):
    raise UserError(
      f'config.data.cache={settings.cache} encodes examples of one size; set it to 0, or train on '
      'what python -m cdd.prepare makes of them.'
    )
  params = trees.prefixed(trees.select(prior.params, 'vae'), 'vae')
  folder = folder / digest(settings, networks, params)[:16]
  encode = partial(jax.jit(networks.encode), params)
  of_space = dict(latent=encode, unscaled_latent=encode, pixel=as_uint8, mask=as_uint8)
  encoders = {name: of_space[space] for name, space in networks.reads.items()}
  if jax.process_index() == 0 and not folder.exists():
    cache.write(
      folder,
      stream.source,
      stream.draw,
      dict(image=encode, **encoders),
      finish=finishing(stream.finish),
      count=settings.cache,
      threads=settings.threads,
      workers=settings.workers,
    )
  multihost_utils.sync_global_devices('latents')
  return Stream(cache.Latents(folder), lambda example, rng: example)


def digest(settings, networks: Networks, params) -> str:
  """Tells apart caches of other data, of other spaces and of other autoencoders."""
  fields = {name: settings.to_dict()[name] for name in ('source', 'task', 'cache')}
  fields |= dict(reads=dict(networks.reads), scale=networks.scale, shift=networks.shift)
  fields |= dict(factor=networks.factor)
  total = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
  for path in sorted(params):
    total.update(params[path].tobytes())
  return total.hexdigest()
