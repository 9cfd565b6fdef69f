"""Evaluations of the adapted network, as a sampler makes them: ours beside PyTorch's.

python -m benchmarks.sampling [--rounds=20]
python -m benchmarks.sampling --size=sd15 --steps=4 --compile    # of a GPU, if there is one
"""

import argparse
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import clock, networks
from cdd.models.time import Time


def moved(z, v, t: int, s: int, table):
  """DDIM's step from the prediction of v at t to s."""
  (alpha, alpha_s), (sigma, sigma_s) = ((float(row[t]), float(row[s])) for row in table)
  return alpha_s * (alpha * z - sigma * v) + sigma_s * (alpha * v + sigma * z)


def moves(steps: int) -> list[tuple[int, int]]:
  """(t, s) of so many evaluations; of the last one the prediction itself is the result."""
  last = networks.SCHEDULE.num_steps
  times = [last - last * step // steps for step in range(steps)]
  return list(zip(times, [*times[1:], None], strict=True))


def our_evaluations(adapter: str, reference, batch, size, steps: int) -> Callable:
  """() -> the last prediction; what does not depend on z is computed once, as samplers do."""
  nets, train, frozen = networks.ours(adapter, reference, size)
  tree = {**frozen, **jax.tree.map(lambda leaf: leaf.astype(size.dtype), train)}
  (z, c), table = batch, np.asarray(networks.SCHEDULE.table[:2])
  hints = jax.jit(lambda tree, c: nets.adapted(tree, 'hints', c))(tree, c)

  @jax.jit
  def run(tree, z, c, hints):
    for t, s in moves(steps):
      time = Time(jnp.full(len(z), t - 1, jnp.int32))
      v = nets.adapted(tree, 'with_hints', z, c, hints, time)
      z = v if s is None else moved(z, v, t, s, table)
    return z

  return lambda: jax.block_until_ready(run(tree, z, c, hints))


def their_evaluations(reference, batch, size, steps: int, *, compiled: bool) -> Callable:
  """The same in PyTorch, all of it in the dtype."""
  kind, table = getattr(torch, size.dtype), np.asarray(networks.SCHEDULE.table[:2])
  reference = networks.placed(reference, size, trained=False)
  noise, condition, text = (array.to(kind) for array in networks.in_torch(batch))
  evaluate = reference.adapter.with_hints
  evaluate = torch.compile(evaluate) if compiled else evaluate
  with torch.inference_mode():
    hints = reference.adapter.hints(condition, text)

  def run():
    z = noise
    with torch.inference_mode():
      for t, s in moves(steps):
        index = torch.full((len(z),), t - 1, device=z.device)
        v = evaluate(reference.unet, hints, z, text, index)
        z = v if s is None else moved(z, v, t, s, table)
    networks.wait()
    return z

  return run


def compare(adapter: str, batch: int, asked: argparse.Namespace) -> None:
  """Prints the times of both for a batch, and how far their predictions are apart."""
  size = networks.SIZES[asked.size]()
  reference, name = networks.theirs(adapter, size), 'diffusers' + ', compiled' * asked.compile
  given = networks.inputs(batch, size).given(reference.adapter.space)
  contestants = {
    'ours': our_evaluations(adapter, reference, given, size, asked.steps),
    name: their_evaluations(reference, given, size, asked.steps, compiled=asked.compile),
  }
  got = np.asarray(contestants['ours'](), np.float32)
  expected = contestants[name]().float().permute(0, 2, 3, 1).cpu().numpy()
  gap = np.abs(got - expected).max() / np.abs(expected).max()
  print(
    f'{adapter}, batch {batch}, {asked.steps} steps, {size.dtype}; {networks.place()}; ', end=''
  )
  print(f'{gap:.1e} of the largest apart')
  print(clock.table(clock.race(contestants, rounds=asked.rounds), reference=name), flush=True)
  networks.print_peaks()


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=20)
  parser.add_argument('--size', choices=networks.SIZES, default='small')
  parser.add_argument('--steps', type=int, default=1)
  parser.add_argument('--compile', action='store_true', help="compiles PyTorch's evaluation")
  asked = parser.parse_args()
  for adapter, batch in itertools.product(networks.THEIR_ADAPTERS, (1, 16)):
    compare(adapter, batch, asked)


if __name__ == '__main__':
  main()
