"""Why the step is behind: the hint network's convolutions one by one, XLA's beside PyTorch's.

python -m benchmarks.convolutions [--rounds=6]
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import clock, networks

BATCH = 32
# (channels in, out, stride, pixels of a side) of ControlNet's hint network at 128 px.
LAYERS = (
  (3, 16, 1, 128),
  (16, 16, 1, 128),
  (16, 32, 2, 128),
  (32, 32, 1, 64),
  (32, 96, 2, 64),
  (96, 96, 1, 32),
  (96, 256, 2, 32),
  (256, 64, 1, 16),
)
PASSES = ('forward', 'weight gradient', 'input gradient')


def ours(x: np.ndarray, w: np.ndarray, stride: int) -> dict[str, Callable[[], None]]:
  """Pass -> a function that runs it; x [b, h, w, c], w [3, 3, c, d]."""

  def forward(x, w):
    order = ('NHWC', 'HWIO', 'NHWC')
    pads = ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=order)

  by_weight = lambda x, w, d: jax.vjp(lambda w: forward(x, w), w)[1](d)
  by_input = lambda x, w, d: jax.vjp(lambda x: forward(x, w), x)[1](d)
  x, w = jnp.asarray(x), jnp.asarray(w)
  d = jax.jit(forward)(x, w)
  runs = zip(PASSES, (forward, by_weight, by_input), ((x, w), (x, w, d), (x, w, d)), strict=True)
  bind = lambda run, given: lambda: jax.block_until_ready(run(*given))
  return {name: bind(jax.jit(run), given) for name, run, given in runs}


def theirs(x: np.ndarray, w: np.ndarray, stride: int) -> dict[str, Callable[[], None]]:
  """The same in PyTorch, channels last."""
  last = dict(memory_format=torch.channels_last)
  x = networks.nchw(x).to(**last)
  w = torch.tensor(w).permute(3, 2, 0, 1).to(**last)
  forward = lambda: torch.nn.functional.conv2d(x, w, stride=stride, padding=1)
  d = forward()
  settings = ([stride] * 2, [1, 1], [1, 1], False, [0, 0], 1)
  backward = lambda mask: (
    lambda: torch.ops.aten.convolution_backward(d, x, w, None, *settings, mask)
  )
  runs = (forward, backward([False, True, False]), backward([True, False, False]))
  return dict(zip(PASSES, runs, strict=True))


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=6)
  arguments = parser.parse_args()
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  print(f'batch {BATCH}; {networks.THREADS} threads; medians in ms')
  print('| layer | pass | ours | diffusers | ratio |\n' + '|---' * 5 + '|')
  sums = dict(ours=0.0, theirs=0.0)
  for narrow, wide, stride, side in LAYERS:
    given = draw(BATCH, side, side, narrow), draw(3, 3, narrow, wide), stride
    both = dict(ours=ours(*given), theirs=theirs(*given))
    for name in PASSES[: 2 if narrow == 3 else 3]:  # Nobody asks for the picture's gradient.
      laps = clock.race({who: runs[name] for who, runs in both.items()}, rounds=arguments.rounds)
      first, second = (clock.median(laps[who]) for who in both)
      for who, value in zip(sums, (first, second), strict=True):
        sums[who] += value * (2 if name == 'forward' else 1)  # Once more for the target.
      label = f'{narrow} -> {wide}, stride {stride}, {side} px'
      print(f'| {label} | {name} | {first:.1f} | {second:.1f} | {first / second:.2f} |', flush=True)
  first, second = sums.values()
  print(f'in a step of Algorithm 1: {first:.0f} and {second:.0f} ms, ratio {first / second:.2f}')


if __name__ == '__main__':
  with torch.no_grad():
    main()
