"""The step of Algorithm 1, the adapter trained and the U-Net frozen: ours beside PyTorch's.

python -m benchmarks.step [--rounds=10] [--batch=32] [--decay=0.95]
python -m benchmarks.step --size=sd15 --batch=4 --compile        # of a GPU, if there is one

With γ (`decay`) 0, our default, the target is the network itself: nothing follows it, and what sees
the condition alone is computed once for both, where the modules separate it.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import clock, networks
from cdd.core.types import Batch, Nets, Params
from cdd.diffusion import distances, predictors, times
from cdd.methods import METHODS
from cdd.training import optimizer, state, step, targets

RATE, CLIP, DT = 1e-4, 1.0, 1
LOSS = partial(
  METHODS['conditional'].loss,
  schedule=networks.SCHEDULE,
  num_steps=networks.SCHEDULE.num_steps,
  sample_t=times.per_example,
  predictor=predictors.prev,
  d_eps=distances.squared_l2,
  d_x=distances.squared_l2,
  dt=DT,
)


def our_objective(nets: networks.Networks) -> Callable:
  """As runs/objective.py, of latents and hidden states that are computed already."""

  def run(params, target, frozen, batch, rng, step):
    online = nets.denoiser({**frozen, **params}, batch.c)
    slow = nets.denoiser({**frozen, **target}, batch.c) if target else online
    return LOSS(Nets(online=online, target=slow), Batch(batch.x), rng, step)

  return run


def our_step(objective, train: Params, frozen: Params, batch: networks.Given, *, decay) -> Callable:
  """() -> None: one update, jitted with the state donated."""
  adamw = optimizer.adamw(steps=10**6, learning_rate=RATE, decay='constant', b2=0.999, clip=CLIP)
  update = step.make(objective, adamw, partial(targets.ema, decay=decay))
  update = jax.jit(update, donate_argnums=0)
  now = state.create(jax.tree.map(jnp.copy, train), adamw, has_copy=bool(decay))
  rng = jax.random.key(0)

  def run():
    nonlocal now
    now, metrics = update(now, frozen, batch, rng)
    jax.block_until_ready((now, metrics))

  return run


def their_loss(online: networks.Theirs, slow: torch.nn.Module | None, batch, t, eps):
  """Algorithm 1 in torch; t int64 [b], eps [b, c, h, w].

  Args:
    slow: the target's adapter, or None: the network itself.
  """
  x, condition, text = batch
  table = [torch.tensor(np.asarray(row), device=x.device) for row in networks.SCHEDULE.table[:2]]
  level = lambda t: (row[t][:, None, None, None] for row in table)
  index = lambda t: (t - 1).clamp(min=0)
  (alpha_t, sigma_t), (alpha_s, sigma_s), s = level(t), level(t - DT), t - DT
  z_t = alpha_t * x + sigma_t * eps
  hints = online.adapter.hints(condition, text)
  v = online.adapter.with_hints(online.unet, hints, z_t, text, index(t))
  x_hat, eps_hat = alpha_t * z_t - sigma_t * v, alpha_t * v + sigma_t * z_t
  with torch.no_grad():
    z_s = alpha_s * x_hat + sigma_s * eps
    hints = hints if slow is None else slow.hints(condition, text)
    target = online.adapter if slow is None else slow
    v = target.with_hints(online.unet, hints, z_s, text, index(s))
    eps_slow = alpha_s * v + sigma_s * z_s
  mse = torch.nn.functional.mse_loss
  return mse(eps_hat, eps_slow) + mse(x_hat, x)


def their_step(online: networks.Theirs, batch, size: networks.Size, *, decay, compiled) -> Callable:
  """() -> None: one update, in eager mode or compiled."""
  slow = copy.deepcopy(online.adapter).requires_grad_(False) if decay else None
  weights = list(online.adapter.parameters())
  adamw = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0, fused=True)
  x, loss_of = batch[0], torch.compile(their_loss) if compiled else their_loss

  def run():
    t = torch.randint(DT, networks.SCHEDULE.num_steps + 1, (len(x),), device=x.device)
    with networks.autocast(size):
      loss = loss_of(online, slow, batch, t, torch.randn_like(x))
    adamw.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, CLIP)
    adamw.step()
    if decay:
      torch._foreach_lerp_(list(slow.parameters()), weights, 1 - decay)
    networks.wait()

  return run


def disagreement(objective, train, frozen, batch, reference, torch_batch, size) -> float:
  """The difference of the two losses, as a part of them, of the same weights, noise and times."""
  rng = jax.random.key(7)
  t_rng, eps_rng = jax.random.split(rng)  # As methods/conditional.py draws them.
  t = times.per_example(t_rng, len(batch.x), DT, networks.SCHEDULE.num_steps)
  eps = jax.random.normal(eps_rng, batch.x.shape)
  loss, _ = jax.jit(objective)(train, {}, frozen, batch, rng, jnp.int32(0))
  with torch.no_grad(), networks.autocast(size):
    t = torch.tensor(np.asarray(t)[:, 0, 0, 0], dtype=torch.int64, device=networks.DEVICE)
    expected = their_loss(reference, None, torch_batch, t, networks.nchw(eps)).item()
  return abs(float(loss) - expected) / expected


def compare(adapter: str, asked: argparse.Namespace) -> None:
  """Prints how far the losses of both are apart, their times, and their memory on a GPU."""
  size = networks.SIZES[asked.size]()
  reference = networks.theirs(adapter, size)
  nets, train, frozen = networks.ours(adapter, reference, size)
  reference = networks.placed(reference, size, trained=True)
  data = networks.inputs(asked.batch, size).given(nets.reads['condition'])
  torch_data = networks.in_torch(data)
  objective = our_objective(nets)
  gap = disagreement(objective, train, frozen, data, reference, torch_data, size)
  count = lambda tree: f'{sum(leaf.size for leaf in tree.values()):,}'
  print(f'{adapter} of {count(train)} parameters, a frozen U-Net of {count(frozen)}, {size.dtype}')
  print(
    f'batch {asked.batch}, γ {asked.decay:g}; {networks.place()}; the losses differ by {gap:.1e}'
  )
  decay, compiled = asked.decay, asked.compile
  name = 'diffusers, compiled' if compiled else 'diffusers'
  contestants = {
    'ours': our_step(objective, train, frozen, data, decay=decay),
    name: their_step(reference, torch_data, size, decay=decay, compiled=compiled),
  }
  print(clock.table(clock.race(contestants, rounds=asked.rounds), reference=name), flush=True)
  networks.print_peaks()


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=10)
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--decay', type=float, default=0.0)
  parser.add_argument('--size', choices=networks.SIZES, default='small')
  parser.add_argument('--compile', action='store_true', help="compiles PyTorch's step")
  asked = parser.parse_args()
  for adapter in networks.THEIR_ADAPTERS:
    compare(adapter, asked)


if __name__ == '__main__':
  main()
