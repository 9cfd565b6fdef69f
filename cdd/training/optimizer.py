"""Owns the optimiser: AdamW with clipping, warm-up, decay and learning rates by path."""

from collections.abc import Sequence

import optax

from cdd import trees
from cdd.registry import choose


def schedule(*, peak: float, steps: int, warmup: int = 0, decay: str = 'linear', hold: float = 0.0):
  """Linear warm-up to `peak`, a plateau until the fraction `hold` of `steps`, then a decay to 0.

  Args:
    decay: 'linear', 'cosine' or 'constant'.
  """
  start = max(warmup, int(hold * steps))
  rest = max(steps - start, 1)
  tails = {
    'linear': lambda: optax.linear_schedule(peak, 0.0, rest),
    'cosine': lambda: optax.cosine_decay_schedule(peak, rest),
    'constant': lambda: optax.constant_schedule(peak),
  }
  tail = choose(tails, decay, 'learning-rate decay')()
  rise = optax.linear_schedule(0.0 if warmup else peak, peak, max(warmup, 1))
  return optax.join_schedules([rise, tail], [start])


def adamw(
  *,
  steps: int,
  learning_rate: float,
  warmup: int = 0,
  decay: str = 'linear',
  hold: float = 0.0,
  weight_decay: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.99,
  clip: float = 1.0,
  multipliers: Sequence[tuple[str, float]] = (),
) -> optax.GradientTransformation:
  """AdamW; `multipliers` scales the learning rate of the paths that a pattern matches.

  Weight decay leaves vectors and scalars (biases, norms, μ) alone.
  """
  rates = [*multipliers, ('.*', 1.0)]

  def scale(updates, state, params=None):
    factors = trees.match(rates, updates)
    return {path: leaf * factors[path] for path, leaf in updates.items()}, state

  return optax.chain(
    optax.clip_by_global_norm(clip) if clip else optax.identity(),
    optax.scale_by_adam(b1=b1, b2=b2, eps=1e-8),
    optax.add_decayed_weights(weight_decay, lambda tree: {k: v.ndim > 1 for k, v in tree.items()}),
    optax.GradientTransformation(lambda params: optax.EmptyState(), scale),
    optax.scale_by_learning_rate(
      schedule(peak=learning_rate, steps=steps, warmup=warmup, decay=decay, hold=hold)
    ),
  )


OPTIMIZERS = {'adamw': adamw}
