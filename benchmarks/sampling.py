"""One evaluation of the adapted network, as a sampler makes it: ours beside PyTorch's.

python -m benchmarks.sampling [--rounds=20]
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import clock, networks


def our_evaluation(adapter: str, reference: networks.Theirs, data: networks.Inputs) -> Callable:
  """() -> the prediction; what does not depend on z is computed beforehand, as samplers do."""
  nets, train, frozen = networks.ours(adapter, reference)
  tree, z = {**frozen, **train}, jnp.asarray(data.latents)
  c, index = data.condition(nets.condition_space), jnp.full(len(z), 500, jnp.int32)
  if nets.depends_on_z:
    run = jax.jit(lambda tree, *args: nets.adapted(tree, '__call__', *args))
    arguments = (tree, z, c, index)
  else:
    hints = jax.jit(lambda tree, c: nets.adapted(tree, 'hints', c))(tree, c)
    run = jax.jit(lambda tree, *args: nets.adapted(tree, 'with_hints', *args))
    arguments = (tree, z, c, hints, index)
  return lambda: jax.block_until_ready(run(*arguments))


def their_evaluation(reference: networks.Theirs, data: networks.Inputs) -> Callable:
  z, image, text = networks.nchw(data.latents), networks.nchw(data.image), torch.tensor(data.text)
  index = torch.full((len(z),), 500)

  def run():
    with torch.inference_mode():
      return reference(z, image, text, index)

  return run


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=20)
  arguments = parser.parse_args()
  reference = networks.theirs()
  for batch in (1, 16):
    data = networks.inputs(batch)
    contestants = {
      'ours, controlnet': our_evaluation('controlnet', reference, data),
      'ours, mu_mix': our_evaluation('mu_mix', reference, data),
      'diffusers, controlnet': their_evaluation(reference, data),
    }
    got = np.asarray(contestants['ours, controlnet']())
    expected = contestants['diffusers, controlnet']().permute(0, 2, 3, 1).numpy()
    gap = np.abs(got - expected).max() / np.abs(expected).max()
    print(
      f'batch {batch}; {networks.THREADS} threads; the outputs differ by {gap:.1e} of the largest'
    )
    laps = clock.race(contestants, rounds=arguments.rounds)
    print(clock.table(laps, reference='diffusers, controlnet'))


if __name__ == '__main__':
  main()
