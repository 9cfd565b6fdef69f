"""Owns the evaluation of any model on held-out examples: a run, a checkpoint, a folder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cdd.core import files
from cdd.core.errors import UserError
from cdd.diffusion.samplers import SAMPLERS
from cdd.metrics import GENERAL, chosen
from cdd.pretrained import locate
from cdd.reports import examples, grid, pictures
from cdd.runs import config as configs
from cdd.runs import experiment, report, rows, streams
from cdd.sampling import Pipeline, Settings
from cdd.sampling.draw import check_steps
from cdd.training import checkpoint, sharding

# What is measured where neither the config nor the flags say it.
DEFAULTS = dict(count=128, batch_size=32, metrics=GENERAL, condition_row=None, mismatched=None)
FEW = (1, 2, 4)  # The steps of a sampler for few steps.


class Asked(NamedTuple):
  """What is asked for besides the model and the examples; None is what the config says.

  Attributes:
    steps: numbers of steps.
    count, batch_size: of the held-out examples.
    seed: of the noise; 0 is that of a run's report.
    how: how images are drawn; its steps are not read.
  """

  steps: tuple[int, ...] | None = None
  count: int | None = None
  batch_size: int | None = None
  seed: int = 0
  how: Settings = Settings()


class Bound(NamedTuple):
  """A model with the examples that it is measured on.

  Attributes:
    held_out: (count, batch_size) -> batches.
  """

  pipeline: Pipeline
  held_out: Callable
  mesh: jax.sharding.Mesh


def newest(model: str) -> int | None:
  """The step of the newest checkpoint of a run's folder that is whole; None of anything else.

  A checkpoint is what the run's report measured, float32; what it exports is float16.
  """
  folder = Path(model)
  if not (folder / 'config.json').exists() or not checkpoint.steps(folder / 'checkpoints'):
    return None
  return int(locate.of_run(folder).weights.name)


def settings_of(config, own, pipeline: Pipeline, asked: Asked) -> ConfigDict:
  """`config.evaluation` with the model's own sampler and steps, and what was asked for.

  Args:
    config: that of the examples.
    own: that of the model, or None.
  """
  given = dict(config.get('evaluation') or {})
  out = ConfigDict(DEFAULTS | {name: given[name] for name in DEFAULTS if name in given})
  evaluated = (own.get('evaluation') if own else None) or {}
  sampler = asked.how.sampler or evaluated.get('sampler') or pipeline.sampler
  kind = SAMPLERS[sampler]()
  alike = evaluated.get('sampler') == sampler
  steps = evaluated['steps'] if alike else FEW if kind.few else (kind.steps,)
  plain = asked.steps is None and asked.how.sampler is None
  out.sampler, out.steps = sampler, tuple(asked.steps or steps)
  out.more = tuple(evaluated.get('more', ())) if plain else ()
  out.count = asked.count or out.count
  out.batch_size = asked.batch_size or min(out.batch_size, out.count)
  return out


def bind(pipeline: Pipeline, config, own, asked: Asked, name: str) -> tuple[Bound, ConfigDict]:
  """A model with the held-out examples of a config, and what is measured.

  Args:
    name: what messages call the model.

  Raises:
    UserError: the model, the examples and what is asked for do not go together.
  """
  check_kind(pipeline, config, own, name)
  config = ConfigDict(config.to_dict())
  config.evaluation = settings_of(config, own, pipeline, asked)
  settings = config.evaluation
  for sampler, counts in ((settings.sampler, settings.steps), *settings.more):
    for steps in counts:
      how = pipeline.resolved(asked.how._replace(sampler=sampler, steps=steps))
      check_steps(pipeline.networks, SAMPLERS[sampler](), visited(pipeline, how))
  mesh = sharding.make_mesh()
  if mesh.size > 1:
    whole = sharding.replicated(mesh)
    pipeline = pipeline._replace(params=jax.device_put(jax.device_get(pipeline.params), whole))
  bound = Bound(pipeline, streams.held_out(config, pipeline.tokenize), mesh)
  check_condition(bound, config, name)
  if asked.how.image_guidance is not None and not pipeline.networks.reads:
    raise UserError(f'image_guidance is for models that see a condition, and {name} sees none.')
  report.check_arrays(bound, settings)
  return bound, settings


def check_kind(pipeline: Pipeline, config, own, name: str) -> None:
  """Refuses examples of another task than the model's."""
  task = config.data.task.name
  trained = own.data.task.name if own else task
  if 'paired' not in (task, trained) and task != trained:
    raise UserError(
      f'{name} was trained for the task {trained!r}, and {config.name} is of {task!r}.'
    )


def check_condition(bound: Bound, config, name: str) -> None:
  """Refuses a model that reads what the examples lack, or that does not read their condition."""
  settings, reads = config.evaluation, bound.pipeline.networks.reads
  (batch,) = bound.held_out(settings.batch_size, settings.batch_size)
  if lacking := sorted(reads.keys() - batch.keys()):
    raise UserError(
      f'{name} reads {lacking[0]!r}, which the examples of {config.name} do not have.'
    )
  if 'condition' in batch and not reads:
    raise UserError(
      f'{name} reads no condition, and the examples of {config.name} have one: give a '
      'config with adapter=none, or an --adapter that reads it.'
    )


def visited(pipeline: Pipeline, how: Settings) -> tuple[int, ...]:
  return pipeline.timesteps_of(how).times(pipeline.networks.schedule.num_steps, how.steps)


def sampling(bound: Bound, asked: Asked) -> Callable:
  """(batch, number, sampler=, steps=) -> images [b, H, W, 3], the same on every process.

  Each device draws its share of the batch. Noise is that of a run's report where the seed is 0.
  """
  pipeline, mesh = bound.pipeline, bound.mesh

  def sample(batch, number, *, sampler, steps):
    how = pipeline.resolved(asked.how._replace(sampler=sampler, steps=steps))
    times = visited(pipeline, how)
    key = jax.random.key(number)
    key = jax.random.fold_in(key, asked.seed) if asked.seed else key
    z_key, rng = jax.random.split(key)
    shape = batch['image'].shape
    z = np.asarray(jax.random.normal(z_key, pipeline.networks.latent_shape(shape)))
    raw = sharding.spread(dict(batch, z=z), mesh)
    guide = pipeline.guide([None] * len(z), shape[1:3], how)
    strength = jax.tree.map(np.asarray, pipeline.strength(how, times))
    clip = pipeline.timesteps_of(how).clip
    static = dict(sampler=sampler, visited=times, clip=clip, tile=None)
    with sharding.on(mesh):
      images = pipeline.draw(pipeline.params, raw, guide, raw.pop('z'), rng, strength, **static)
    return sharding.readable(dict(images=images), mesh)['images']

  return sample


def evaluate(
  pipeline: Pipeline, config, own, asked: Asked, *, label: str, updates: int | None, folder: Path
) -> list[dict]:
  """Measures a model, prints its rows, and writes evaluation.json and pictures into a folder.

  Every process samples; process 0 alone prints and writes.

  Args:
    config: that of the held-out examples.
    own: the config of the run that made the model, or None.
    label: what rows and messages call the model.
    updates: that it was trained for.
  """
  bound, settings = bind(pipeline, config, own, asked, label)
  batches = bound.held_out(settings.count, settings.batch_size)
  seen = bound.held_out.pictures(settings.count)
  reconstruct = experiment.reconstruction(pipeline.networks, {}, bound.mesh)
  entries = rows.of_model(label, sampling(bound, asked), updates, settings)
  entries += rows.references(partial(reconstruct, bound.pipeline.params), settings)
  found, shown = rows.measured(entries, batches, chosen(settings.metrics), seen=seen)
  if jax.process_index() == 0:
    said = dict(model=label, config=config.name, held_out=config.data.held_out.to_dict())
    said |= dict(task=config.data.task.to_dict(), seed=asked.seed, settings=asked.how._asdict())
    said['trained'] = own and configs.as_json(own)
    files.write_json(folder / 'evaluation.json', dict(said, rows=found))
    if picture := pictures.alone(label, shown, batches[0]):
      grid.save_png(folder / 'pictures' / 'samples.png', picture.image)
    examples.write(folder / 'pictures', label, shown, batches[0])
  return found
