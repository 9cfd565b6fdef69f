"""silu and its gradient, ours, jax.nn's and PyTorch's, on an activation of ControlNet's hints.

python -m benchmarks.activations [--rounds=20]
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import clock, networks
from cdd.models.ops.activations import silu

SHAPE = (32, 128, 128, 16)


def in_jax(silu: Callable, x: jax.Array) -> dict[str, Callable[[], None]]:
  """Pass -> a function that runs it."""
  forward, gradient = jax.jit(silu), jax.jit(lambda x, d: jax.vjp(silu, x)[1](d))
  return dict(
    forward=lambda: jax.block_until_ready(forward(x)),
    gradient=lambda: jax.block_until_ready(gradient(x, x)),
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=20)
  rounds = parser.parse_args().rounds
  values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
  x, y = jnp.asarray(values), torch.tensor(values)
  runs = {
    'ours': in_jax(silu, x),
    'jax.nn': in_jax(jax.nn.silu, x),
    'torch': dict(
      forward=lambda: torch.nn.functional.silu(y),
      gradient=lambda: torch.ops.aten.silu_backward(y, y),
    ),
  }
  print(f'{" x ".join(map(str, SHAPE))}; {networks.THREADS} threads')
  for what in ('forward', 'gradient'):
    laps = clock.race({f'{name}, {what}': run[what] for name, run in runs.items()}, rounds=rounds)
    print(clock.table(laps, reference=f'torch, {what}'))


if __name__ == '__main__':
  main()
