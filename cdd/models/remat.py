"""Owns which layers the backward pass computes anew, and what of them is kept all the same."""

from collections.abc import Callable, Sequence

import jax
from flax import nnx

from cdd.core.registry import choose

# What a layer that is computed anew may keep of the forward pass: the outputs of its attention and
# of its 3 x 3 convolutions.
SAVED = ('attention', 'convolution')


def rematerialized(module: nnx.Module, saved: Sequence[str] = ()) -> nnx.Module:
  """The same module, whose backward pass computes every layer of its U-Nets anew.

  The activations within a residual block and its transformer are then not saved from the forward
  pass: about a quarter more work, and a fraction of the memory.

  Args:
    saved: names in SAVED of what is kept all the same.

  Raises:
    UserError: an unknown name.
  """
  for name in saved:
    choose(dict.fromkeys(SAVED), name, 'entry of config.model.saved')
  for _, part in nnx.iter_modules(module):
    if hasattr(part, 'remat'):
      part.remat = tuple(saved)
  return module


def anew(run: Callable, saved: tuple[str, ...] | None) -> Callable:
  """A layer computed anew by the backward pass, but for what is saved by name; None: it is not."""
  if saved is None:
    return run
  policy = jax.checkpoint_policies.save_only_these_names(*saved)
  return jax.checkpoint(run, policy=policy)
