"""Owns the way from a source to batches: shuffled, prefetched, resumable, cut over processes."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from cdd.core.errors import UserError
from cdd.data.mixtures import Mixture


class Dropout(NamedTuple):
  """How often training leaves out what a guided model has to do without.

  The three exclude one another; one number decides, so that InstructPix2Pix's training is
  (.05, .05, .05).

  Attributes:
    caption: of examples without their caption alone.
    both: of those without caption and condition.
    condition: of those without their condition alone.
  """

  caption: float = 0.0
  both: float = 0.0
  condition: float = 0.0

  @property
  def captions(self) -> float:
    """The share of the examples without their caption."""
    return self.caption + self.both

  def drawn(self, rng: np.random.Generator) -> dict[str, bool]:
    """What of an example is there: `present`, its caption, and, where it may be dropped,
    `condition_present`.
    """
    number, both = rng.random(), self.captions
    there = dict(present=number >= both)
    if self.both or self.condition:
      there['condition_present'] = not self.caption <= number < both + self.condition
    return there


NONE = Dropout()
WHOLE = dict(present=True)


class Batches:
  """Endless training batches; a dict of NumPy arrays each.

  Example i of the stream, and every random draw about it, depends on the seed and i alone, so a
  restored iterator gives what an unbroken one would have given.
  """

  def __init__(
    self,
    source,
    task: Callable,
    tokenize: Callable[[str], dict[str, np.ndarray]],
    *,
    batch_size: int,
    seed: int,
    dropout: Dropout = NONE,
    threads: int = 2,
    workers: int = 0,
    rows: Sequence[int] | None = None,
  ):
    """`batch_size` counts all processes; this one yields its part.

    Args:
      source: the examples; of one with `buckets`, each batch is from one of them.
      dropout: what of an example is dropped, and how often.
      threads, workers: what draws the examples (`prefetched`).
      rows: which examples of a batch this process yields; all of them if None.
    """

    def prepare(example, rng):
      dropped = dropout.drawn(rng)
      return as_arrays(task(example, rng), tokenize, dropped)

    mine = range(batch_size) if rows is None else rows

    def batched(source) -> grain.MapDataset:
      # Drawn before the cut, so that a batch is the same on any number of processes.
      dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(prepare)
      dataset = dataset[: len(dataset) // batch_size * batch_size]
      dataset = grain.experimental.ZipMapDataset([dataset[row::batch_size] for row in mine])
      return dataset.map(stacked)

    if (buckets := getattr(source, 'buckets', None)) is None:
      self._dataset = batched(source)
    else:
      in_turn = Mixture([batched(part) for part in buckets.parts], buckets.shares)
      self._dataset = grain.MapDataset.source(in_turn)
    self._settings = dict(threads=threads, workers=workers)
    self._batch_size, self._iterator, self._next = batch_size, None, 0

  def __iter__(self):
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._iterator is None:
      self._iterator = prefetched(self._dataset[self._next :], **self._settings)
    batch = next(self._iterator)
    self._next += 1
    return batch

  def get_state(self) -> dict:
    """The next example; it says nothing of threads, workers, processes and the batch size."""
    return dict(next_example=self._next * self._batch_size)

  def set_state(self, state: dict) -> None:
    """Goes on with the first batch that holds no example from before."""
    self.close()
    if 'next_index' in state:  # A checkpoint of an older version counts batches of its size.
      self._next = state['next_index']
    else:
      self._next = -(-state['next_example'] // self._batch_size)

  def close(self) -> None:
    """Ends what works ahead."""
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None


def stacked(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Examples as a batch."""
  return {name: np.stack([each[name] for each in examples]) for name in examples[0]}


def prefetched(dataset: grain.MapDataset, *, threads: int, workers: int):
  """An iterator over a dataset, in its order, that threads work ahead of.

  Args:
    threads: of each process. They share one interpreter, and so about one core.
    workers: how many processes draw them; 0 is none. Each holds a copy of the source.
  """
  ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
  stream = dataset.to_iter_dataset(ahead)
  if workers:
    flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which a library has not parsed.
    stream = stream.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=4))
  return iter(stream)


def as_arrays(
  example: dict, tokenize: Callable, there: Mapping[str, bool] = WHOLE
) -> dict[str, np.ndarray]:
  """The arrays of an example, its caption as tokens, and what of it is there, 0 or 1.

  Args:
    example: with a `text` it brings what the text encoders made of its caption.
    there: `Dropout.drawn`; a caption that is not present is the empty one.
  """
  arrays = {name: value for name, value in example.items() if name not in ('caption', 'text')}
  if 'text' in example and there['present']:
    words = example['text']
  else:
    words = tokenize(example['caption'] if there['present'] else '')
  return arrays | words | {name: np.float32(value) for name, value in there.items()}


def held_out(source, task: Callable, tokenize: Callable, *, batch_size: int, seed: int, count: int):
  """The first `count` examples of a held-out source, in fixed batches.

  Raises:
    UserError: the batch size does not divide the count, or the source is too short.
  """
  check_held_out(source, batch_size=batch_size, count=count)
  batches = []
  for start in range(0, count, batch_size):
    examples = [
      as_arrays(task(source[i], np.random.default_rng((seed, i))), tokenize)
      for i in range(start, start + batch_size)
    ]
    batches.append(stacked(examples))
  return batches


def check_held_out(source, *, batch_size: int, count: int) -> None:
  """Raises the errors of `held_out`, and draws nothing."""
  if count % batch_size or count > len(source):
    raise UserError(
      f'Cannot evaluate {count} of {len(source)} held-out examples in batches of {batch_size}.'
    )
