"""One evaluation of the adapted network, as a sampler makes it: ours beside PyTorch's.

python -m benchmarks.sampling [--rounds=20]
"""

import argparse
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import clock, networks
from cdd.models.unet import Time


def our_evaluation(adapter: str, reference: networks.Theirs, batch: networks.Given) -> Callable:
  """() -> the prediction; what does not depend on z is computed beforehand, as samplers do."""
  nets, train, frozen = networks.ours(adapter, reference)
  tree, (z, c), time = {**frozen, **train}, batch, Time(jnp.full(len(batch.x), 500, jnp.int32))
  hints = jax.jit(lambda tree, c: nets.adapted(tree, 'hints', c))(tree, c)
  run = jax.jit(lambda tree, *args: nets.adapted(tree, 'with_hints', *args))
  return lambda: jax.block_until_ready(run(tree, z, c, hints, time))


@torch.inference_mode()
def their_evaluation(reference: networks.Theirs, batch: networks.Given) -> Callable:
  """The same in PyTorch."""
  z, condition, text = networks.in_torch(batch)
  index = torch.full((len(z),), 500)
  hints = reference.adapter.hints(condition, text)

  def run():
    with torch.inference_mode():
      return reference.adapter.with_hints(reference.unet, hints, z, text, index)

  return run


def compare(adapter: str, *, size: int, rounds: int) -> None:
  """Prints the times of both for a batch of `size`, and how far their predictions are apart."""
  reference = networks.theirs(adapter)
  batch = networks.inputs(size).given(reference.adapter.space)
  contestants = {
    'ours': our_evaluation(adapter, reference, batch),
    'diffusers': their_evaluation(reference, batch),
  }
  got = np.asarray(contestants['ours']())
  expected = contestants['diffusers']().permute(0, 2, 3, 1).numpy()
  gap = np.abs(got - expected).max() / np.abs(expected).max()
  print(f'{adapter}, batch {size}; {networks.THREADS} threads; {gap:.1e} of the largest apart')
  print(clock.table(clock.race(contestants, rounds=rounds), reference='diffusers'), flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=20)
  arguments = parser.parse_args()
  for adapter, size in itertools.product(networks.THEIR_ADAPTERS, (1, 16)):
    compare(adapter, size=size, rounds=arguments.rounds)


if __name__ == '__main__':
  main()
