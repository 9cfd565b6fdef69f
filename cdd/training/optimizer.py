"""Owns the optimisers: AdamW or Muon, with clipping, warm-up, decay and learning rates by path."""

from collections.abc import Callable, Sequence
from functools import partial

import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

from cdd.core import trees
from cdd.core.registry import choose
from cdd.core.types import Params


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


def by_path(multipliers: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
  """Scales the updates of the paths that a pattern matches; the first match counts."""
  rates = [*multipliers, ('.*', 1.0)]

  def scale(updates, state, params=None):
    factors = trees.match(rates, updates)
    return {path: leaf * factors[path] for path, leaf in updates.items()}, state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), scale)


def orthogonal(*, b1: float, b2: float) -> optax.GradientTransformation:
  """Muon's direction for kernels, Adam's with Nesterov's momentum for the rest.

  A kernel's direction has an RMS of 0.2, about Adam's, so that its learning rate holds here too.
  Source: Jordan et al., 2024; Liu et al., 2025 (arXiv:2502.16982).
  """
  return optax.contrib.muon(
    -1.0,  # A direction: its sign is turned with the learning rate, as Adam's is.
    adam_b1=b1,
    adam_b2=b2,
    muon_weight_dimension_numbers=kernels,
    consistent_rms=0.2,
  )


def kernels(params: Params) -> dict:
  """The axes of each kernel as a matrix, inputs by outputs (HWIO folds to HWI by O); else None."""

  def matrix(leaf):
    return MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

  def is_kernel(path, leaf):
    return path.endswith('kernel') and leaf.ndim > 1

  return {path: matrix(leaf) if is_kernel(path, leaf) else None for path, leaf in params.items()}


def descent(
  direction: Callable[..., optax.GradientTransformation],
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
  """Clipping, a direction, decoupled weight decay, and the learning rate over time and by path.

  Args:
    direction: (b1=, b2=) -> what makes updates of gradients.
    weight_decay: leaves vectors and scalars (biases, norms, μ) alone.
    clip: by the global norm; 0 leaves gradients as they are.
    multipliers: (pattern, factor of the learning rate); the first that matches a path counts.
  """
  rate = schedule(peak=learning_rate, steps=steps, warmup=warmup, decay=decay, hold=hold)
  return optax.chain(
    optax.clip_by_global_norm(clip) if clip else optax.identity(),
    direction(b1=b1, b2=b2),
    optax.add_decayed_weights(weight_decay, lambda tree: {k: v.ndim > 1 for k, v in tree.items()}),
    by_path(multipliers),
    optax.scale_by_learning_rate(rate),
  )


adamw = partial(descent, optax.scale_by_adam)
muon = partial(descent, orthogonal)
OPTIMIZERS = {'adamw': adamw, 'muon': muon}
