"""Single layers of Stable Diffusion on one TPU chip, by its compiler: the ways that were tried.

python -m benchmarks.tpu_layers [--topology=v5e:2x2] [--only='attention 8 x 5']   (some minutes)

Millions of cycles as the compiler estimates them, and MB read and written, of bfloat16 arrays. A +
says that kernels of the compiler's own run besides, to which it gives no cycles.
"""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from cdd.models.ops import attention, flash, rows, upsampling
from cdd.runs import hlo, topologies

# Images, positions, heads, positions that are attended to: at 512 px.
ATTENTION = ((1, 4096, 5, 4096), (8, 4096, 5, 4096), (8, 1024, 10, 1024), (8, 4096, 5, 77))
HEAD = 64
UPSAMPLERS = (
  *((1, 16, 1280), (1, 32, 640), (4, 16, 1280), (4, 32, 640), (8, 16, 1280), (16, 32, 640)),
  *((1, 64, 512), (1, 128, 512), (1, 256, 256)),  # The autoencoder's.
)
# Images and pixels of a side of a ControlNet's hint network, its channels and strides.
HINTS = ((1, 512), (8, 512), (1, 1024))
WIDTHS, STRIDES = (3, 16, 16, 32, 32, 96, 96, 256, 320), (1, 1, 2, 1, 2, 1, 2, 1)
WAYS = dict(
  all_scores=attention.at_once,
  heads_in_turns=attention.by_head,
  in_turns=attention.by_image,
  fused=flash.fused,
)


def cost(device, function: Callable, *shapes: tuple[int, ...]) -> str:
  """What a function of bfloat16 arrays costs."""
  place = SingleDeviceSharding(device)
  arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes]
  compiled = jax.jit(function).trace(*arrays).lower(lowering_platforms=('tpu',)).compile()
  found = hlo.cost(compiled.as_text())
  more = '+' if 'tpu_custom_call' in found.silent else ' '
  return f'{found.cycles / 1e6:7.3f}{more} Mcycles {found.bytes / 1e6:8.1f} MB'


def with_gradients(function: Callable) -> Callable:
  """(arrays, the gradient of the output) -> the output and the gradients of all arrays."""

  def run(*arrays):
    out, pull = jax.vjp(function, *arrays[:-1])
    return out, pull(arrays[-1])

  return run


def with_gradient_of_input(function: Callable) -> Callable:
  """The same for the gradient of the first array alone, as where the weights are frozen."""

  def run(x, weights, grad):
    out, pull = jax.vjp(lambda x: function(x, weights), x)
    return out, pull(grad)

  return run


def with_gradients_of_weights(function: Callable) -> Callable:
  """The same for all arrays but the first, as where they are trained."""

  def run(x, *arrays):
    out, pull = jax.vjp(lambda *weights: function(x, *weights), *arrays[:-1])
    return out, pull(arrays[-1])

  return run


def hint_network(group: int, x: jax.Array, *kernels: jax.Array) -> jax.Array:
  """A hint network without biases, so many pixels of a row together at its start."""
  layers = [(kernel, jnp.zeros(kernel.shape[-1], kernel.dtype)) for kernel in kernels]
  return rows.by_groups(x, *layers, strides=STRIDES, group=group)


def show(device, name: str, function: Callable, gradients: Callable, shapes, out) -> None:
  forward, both = cost(device, function, *shapes), cost(device, gradients(function), *shapes, out)
  print(f'{name:<48} forward {forward}   with gradients {both}', flush=True)


def main(topology: str, only: str) -> None:
  topologies.prepare(topology)
  device = topologies.devices(topology)[0]
  print(f'one chip of {topology}')
  for b, n, heads, m in ATTENTION:
    query, key = (b, heads, n, HEAD), (b, heads, m, HEAD)
    for name, way in WAYS.items():
      said = f'attention {b} x {heads} heads, {n} to {m}, {name}'
      fits = name != 'fused' or m % flash.LANES == 0
      if fits and said.startswith(only):
        show(device, said, way, with_gradients, (query, key, key), query)
  for b, side, width in UPSAMPLERS:
    shapes = (b, side, side, width), (3, 3, width, width)
    for way in (upsampling.by_phases, upsampling.directly, upsampling.dilated):
      said = f'upsampler {b} x {side}x{side}x{width}, {way.__name__}'
      out = (b, 2 * side, 2 * side, width)
      if said.startswith(only):
        show(device, said, way, with_gradient_of_input, shapes, out)
  for b, side in HINTS:
    shapes = (b, side, side, 3), *((3, 3, *pair) for pair in pairwise(WIDTHS))
    for group in (1, 8):
      said = f'hint network {b} x {side}x{side}, groups of {group}'
      out = (b, side // 8, side // 8, WIDTHS[-1])
      if said.startswith(only):
        show(device, said, partial(hint_network, group), with_gradients_of_weights, shapes, out)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topology', default='v5e:2x2')
  parser.add_argument('--only', default='', help='how the names of the rows begin')
  asked = parser.parse_args()
  main(asked.topology, asked.only)
