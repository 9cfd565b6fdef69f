"""An upsampler's convolution and its gradients: by phases, of the enlarged picture, PyTorch's.

python -m benchmarks.upsampling [--rounds=10]
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch
from flax import nnx

from benchmarks import clock, networks
from cdd.models import blocks
from cdd.models.ops import upsampling

SHAPES = ((32, 8, 8, 128), (4, 32, 32, 256))  # Of the step's U-Net; of a larger one.


def in_jax(run: Callable, layer: nnx.Module, x: jax.Array) -> dict[str, Callable[[], None]]:
  """Pass -> a function that runs it; `run(layer, x)`."""
  static, params = nnx.split(layer)
  forward = lambda params, x: run(nnx.merge(static, params), x)
  slope = jax.jit(forward)(params, x)
  gradients = lambda params, x: jax.vjp(forward, params, x)[1](slope)
  bind = lambda run: lambda: jax.block_until_ready(run(params, x))
  return {'forward': bind(jax.jit(forward)), 'gradients': bind(jax.jit(gradients))}


def in_torch(channels: int, x: torch.Tensor) -> dict[str, Callable[[], None]]:
  """The same in PyTorch, channels last."""
  layer = torch.nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
  x = x.to(memory_format=torch.channels_last).requires_grad_()
  run = lambda: layer(torch.nn.functional.interpolate(x, scale_factor=2.0))
  out = run()
  inputs, slope = (x, *layer.parameters()), out.detach()
  gradients = lambda: torch.autograd.grad(out, inputs, slope, retain_graph=True)
  return {'forward': torch.no_grad()(run), 'gradients': gradients}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=10)
  rounds = parser.parse_args().rounds
  torch.set_num_threads(networks.THREADS)
  for shape in SHAPES:
    print(f'{" x ".join(map(str, shape))}; {networks.THREADS} threads')
    x = jax.random.normal(jax.random.key(0), shape)
    layer = blocks.Upsample2D(shape[-1], dtype=jnp.float32, rngs=nnx.Rngs(0))
    runs = {
      'by phases': in_jax(lambda layer, x: layer(x), layer, x),
      'enlarged first': in_jax(lambda layer, x: layer.conv(upsampling.enlarge(x)), layer, x),
      'torch': in_torch(shape[-1], networks.nchw(x)),
    }
    for what in ('forward', 'gradients'):
      laps = clock.race({f'{name}, {what}': run[what] for name, run in runs.items()}, rounds=rounds)
      print(clock.table(laps, reference=f'torch, {what}'))


if __name__ == '__main__':
  main()
