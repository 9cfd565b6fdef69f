"""Owns the encoding of a run's examples ahead of it, in shards that any process may write."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import filelock
import grain
import jax
import numpy as np
from array_record.python import array_record_module
from safetensors.numpy import save
from tqdm import tqdm

from cdd.core import files, interrupts, places, trees
from cdd.core.errors import UserError
from cdd.core.types import Array, Params
from cdd.data import cache, pipeline, prepared
from cdd.data.mixtures import divided
from cdd.models.networks import Networks
from cdd.pretrained import priors
from cdd.runs import config as configs
from cdd.runs import schema, streams
from cdd.training import sharding

ENCODERS = ('vae', 'text_encoder', 'text_encoder_2')
# The parameters of them on which what is prepared depends.
ENCODE = ('vae.encoder.', 'vae.quant_conv.', 'text_encoder.', 'text_encoder_2.')
# Field of the manifest -> what decides it.
DECIDES = dict(
  task='config.data.task says it',
  source='config.data.source says it',
  seed='config.seed says it',
  reads='config.model.adapter decides what is read of an example',
  encoders='the weights at config.prior decide it',
  count='--count says it',
  shards='--shards says it',
  buckets='config.data.source.size and the pictures decide how many have each size',
)


class Job(NamedTuple):
  """What is encoded and by what; `encode` makes of a batch what the records hold.

  `fields` are those of the manifest; `examples`, those of the source in their order.
  """

  stream: streams.Stream
  tokenize: Callable
  encode: Callable
  batch_size: int
  seed: int
  fields: dict
  examples: grain.MapDataset


def run(config, folder: Path, *, count: int, shards: int, batch_size: int) -> None:
  """Writes the first `count` training examples of a config, encoded, to a folder.

  Example i is drawn with the generator of (the config's seed, i). Each process encodes on its own
  devices and writes the shards whose number divided by the number of processes leaves its own; one
  that is there already is left as it is.

  Args:
    batch_size: how many are encoded at once, by each process.

  Raises:
    UserError: the folder holds the examples of another config, the config trains an encoder, or a
      field of it is out of range.
  """
  schema.check(configs.as_json(config))
  stream = streams.training(config, folder)
  if isinstance(stream.source, prepared.Prepared):
    raise UserError('Prepared examples cannot be prepared again; give a config without prepared=.')
  if not 1 <= count <= len(stream.source):
    raise UserError(f'Cannot prepare {count} of {len(stream.source)} examples (--count).')
  if not 1 <= shards <= count:
    raise UserError(f'Cannot write {count} examples to {shards} shards (--shards).')
  prior = priors.load(config.prior, folder, streams.captions(stream.source))
  networks, added = priors.networks(config.model, prior)
  refuse_trained(config, {**prior.params, **added})
  tokenize = priors.reader(prior)
  encode = encoder(networks, prior.params, batch_size, stream.finish)
  fields = described(config, networks, prior.params) | dict(count=count, shards=shards)
  examples, buckets = in_order(stream.source, count)
  job = Job(stream, tokenize, encode, batch_size, config.seed, fields | buckets, examples)
  begin(folder, job)
  bounds = prepared.bounds(count, shards)
  mine = range(jax.process_index(), shards, jax.process_count())
  total = sum(bounds[index + 1] - bounds[index] for index in mine)
  with (
    tqdm(total=total, desc='preparing', unit='example', dynamic_ncols=True) as bar,
    interrupts.compiling('the encoders', bar.write),
  ):
    for index in mine:
      path = folder / prepared.shard(index, shards)
      with alone(path):
        if not path.exists():
          write(path, job, range(bounds[index], bounds[index + 1]), bar.update)
        else:
          bar.update(bounds[index + 1] - bounds[index])


def in_order(source, count: int) -> tuple[grain.MapDataset, dict]:
  """(the first `count` examples, what the manifest says of their shapes).

  Those of one bucket follow one another, by its share.
  """
  if (buckets := getattr(source, 'buckets', None)) is None:
    return grain.MapDataset.source(source)[:count], {}
  counts = divided(count, buckets.shares)
  pairs = zip(buckets.parts, counts, strict=True)
  parts = [grain.MapDataset.source(part)[:share] for part, share in pairs if share]
  return grain.MapDataset.concatenate(parts), dict(buckets=counts)


def alone(path: Path) -> filelock.BaseFileLock:
  """Makes another command that would write the same file wait."""
  return filelock.FileLock(path.with_name(f'.{path.name}.lock'))


def write(path: Path, job: Job, numbers: range, done: Callable[[int], None]) -> None:
  """A shard of the examples of these numbers; it is there complete or not at all."""

  def draw(i, example):
    rng = np.random.default_rng((job.seed, numbers[i]))
    example = job.stream.draw(example, rng)
    return example['caption'], pipeline.as_arrays(example, job.tokenize)

  dataset = job.examples[numbers.start : numbers.stop]
  drawn = pipeline.prefetched(dataset.map_with_index(draw), threads=2, workers=0)
  origin = prepared.origin(job.fields, path.name)
  with files.atomic(path) as new:
    # One record to a group, so that each is read alone.
    writer = array_record_module.ArrayRecordWriter(str(new), 'group_size:1')
    for group in grouped(drawn, job.batch_size):
      captions, examples = zip(*group, strict=True)
      for caption, arrays in zip(captions, job.encode(examples), strict=True):
        writer.write(prepared.record(arrays, caption, origin))
      done(len(group))
    writer.close()
  drawn.close()


def grouped(items, size: int) -> Iterator[list]:
  """Lists of at most `size` (caption, arrays) that follow one another and have one shape."""
  group = []
  for item in items:
    if group and (len(group) == size or shape(item) != shape(group[0])):
      yield group
      group = []
    group.append(item)
  if group:
    yield group


def shape(item: tuple[str, dict]) -> tuple[int, ...]:
  """The shape of an example's image."""
  return item[1]['image'].shape


def encoder(
  networks: Networks, params: Params, batch_size: int, finish: Callable | None = None
) -> Callable:
  """(examples, at most `batch_size`) -> the arrays of each one's record.

  Args:
    finish: what is first made of a batch (`Task.finish`).
  """
  mesh = sharding.make_mesh(devices=jax.local_devices())
  if batch_size % len(mesh.devices.ravel()):
    raise UserError(
      f'--batch_size={batch_size} is no multiple of the {mesh.devices.size} devices of a process.'
    )
  params = {path: leaf for path, leaf in params.items() if path.partition('.')[0] in ENCODERS}
  params = jax.device_put(params, sharding.replicated(mesh))
  complete = sharding.over_devices(finish, mesh) if finish is not None else lambda batch: batch

  def finished(params: Params, batch: dict[str, Array]) -> dict[str, Array]:
    return encoded(networks, params, complete(batch))

  run = sharding.jit(finished, mesh, out_shardings=sharding.replicated(mesh))

  def encode(examples) -> Iterator[dict[str, np.ndarray]]:
    # The last batch is filled up, so that one shape compiles.
    filled = [*examples, *[examples[-1]] * (batch_size - len(examples))]
    batch = jax.device_put(pipeline.stacked(filled), sharding.over_batch(mesh))
    arrays = {name: compact(np.asarray(a), name) for name, a in run(params, batch).items()}
    for row in range(len(examples)):
      yield {name: array[row] for name, array in arrays.items()}

  return encode


def encoded(networks: Networks, params: Params, raw: dict[str, Array]) -> dict[str, Array]:
  """What the records hold of a batch of pictures in [0, 1] and tokens.

  The image's latents and their deviation, both scaled; what the adapter reads, as latents or as
  pixels; the text as the U-Net reads it; the sizes.
  """
  mean, logvar = networks.moments(params, 2 * raw['image'] - 1)
  out = {
    prepared.LATENTS: (mean - networks.shift) * networks.scale,
    prepared.DEVIATION: jax.numpy.exp(0.5 * logvar) * networks.scale,
  }
  for name, space in networks.reads.items():
    if space in ('latent', 'unscaled_latent'):
      out[f'{name}_latents'] = networks.encode(params, raw[name])
    else:
      out[name] = jax.numpy.round(255 * raw[name]).astype(jax.numpy.uint8)
  text = networks.text(params, raw)
  out |= {name: getattr(text, name) for name in prepared.TEXT if getattr(text, name) is not None}
  return out | dict(sizes=raw['sizes'].astype(jax.numpy.int32))


def texts(arrays: dict) -> list[str]:
  """The names of the arrays that are the text's."""
  return [name for name in prepared.TEXT if name in arrays]


def compact(array: np.ndarray, name: str) -> np.ndarray:
  """Whole numbers as they are, all else as float16; a UserError if that is not finite."""
  if np.issubdtype(array.dtype, np.integer):
    return array
  return cache.finite(array.astype(np.float16), name, 0)


def described(config, networks: Networks, params: Params) -> dict:
  """What examples are made of, and by what: a run checks it before it trains on them."""
  fields = configs.as_json(config)
  return dict(
    task=fields['data']['task'],
    source=fields['data']['source'],
    seed=config.seed,
    reads=dict(networks.reads),
    encoders=digest(params),
  )


def digest(params: Params) -> str:
  """The SHA-256 of the weights that encode pictures and words."""
  total = hashlib.sha256()
  for path in sorted(params):
    if path.startswith(ENCODE):
      total.update(path.encode())
      total.update(np.asarray(params[path]).tobytes())
  return total.hexdigest()


def begin(folder: Path, job: Job) -> None:
  """Writes the manifest, or compares with the one that is there; process 0 the empty prompt too.

  Raises:
    UserError: names what differs.
  """
  path = folder / prepared.MANIFEST
  folder.mkdir(parents=True, exist_ok=True)
  with alone(path):
    if path.exists():
      refuse_other(folder, prepared.manifest(folder), job.fields)
    elif shards := sorted(folder.glob(prepared.PATTERN)):
      raise UserError(
        f'{folder} holds {shards[0].name}, but no {path.name} that says what is in it. Prepare '
        'into another folder.'
      )
    else:
      files.write_json(path, job.fields)
    if jax.process_index() == 0:
      files.write(folder / prepared.EMPTY, empty(job))


def empty(job: Job) -> bytes:
  """What the text encoders make of the empty prompt, as a safetensors file."""
  example = job.stream.draw(job.examples[0], np.random.default_rng((job.seed, 0)))
  arrays = pipeline.as_arrays(example, job.tokenize, dict(present=False))
  (encoded,) = list(job.encode([arrays]))
  return save({name: encoded[name] for name in texts(encoded)})


def refuse_other(folder: Path, there: dict, wanted: dict) -> None:
  """Refuses prepared examples that are not those of a config.

  Args:
    wanted: the fields of the manifest that have to agree.

  Raises:
    UserError: names the first that does not.
  """
  for name, value in wanted.items():
    if there.get(name) != value:
      raise UserError(
        f'{folder} was prepared with {name} {there.get(name)!r}, not {value!r}; {DECIDES[name]}. '
        f'Give what it was prepared with, or prepare again: {again(there)}.'
      )


def again(there: Mapping) -> str:
  """The command that prepares as many examples as a manifest says into another folder."""
  numbers = ' '.join(f'--{name}={there.get(name)}' for name in ('count', 'shards'))
  return f'python -m cdd.prepare --config=CONFIG --output=ANOTHER_FOLDER {numbers}'


def refuse_other_data(folder: Path, there: Mapping, made_of: str | None) -> None:
  """Refuses prepared examples that are not of the data that the run is given.

  Args:
    there: the manifest.
    made_of: the place of that data, `config.data.source.made_of`; None if it is given none.

  Raises:
    UserError: names both places, and what to say of data that was moved.
  """
  source = there.get('source')
  place = source.get('path') if isinstance(source, Mapping) else None
  if made_of is None or (place and places.same(place, made_of)):
    return
  said = (
    f'{folder} was prepared of {place or source}, and the run is given {made_of} by data=. Give '
    f'data= as cdd.prepare was given it, or prepare again: {again(there)}.'
  )
  if place:
    said += f' If that is where {place} was moved to, add --config.data.source.made_of={place}.'
  raise UserError(said)


def refuse_trained(config, params: Params) -> None:
  """Refuses a config that trains what encodes, whose examples would be out of date at once.

  Raises:
    UserError: names a parameter.
  """
  labels = trees.match(config.trainable, list(params))
  for path, label in labels.items():
    if label == 'train' and path.startswith(ENCODE):
      raise UserError(
        f'config.trainable trains {path}, so that pictures and captions cannot be encoded ahead.'
      )


def check(config, source: prepared.Prepared, networks: Networks, params: Params) -> None:
  """Refuses to train on examples that were made for another task, adapter or prior, or other data.

  Raises:
    UserError: names what differs.
  """
  refuse_trained(config, params)
  fields = described(config, networks, params)
  wanted = {name: fields[name] for name in ('task', 'reads', 'encoders')}
  folder = Path(config.data.source.path)
  refuse_other(folder, source.manifest, wanted)
  refuse_other_data(folder, source.manifest, config.data.source.get('made_of'))
