"""Owns the door between flax.nnx modules and flat dicts of arrays: {'down_blocks.0.conv.kernel': array}."""

from collections.abc import Callable

import jax
from flax import nnx

from cdd.types import Params


def bind(module: nnx.Module) -> tuple[Callable, Params]:
  """(apply, params): `apply(params, 'method', *args)` calls a method with these parameters."""
  graph, state = nnx.split(module)
  flat = {'.'.join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
  paths = {'.'.join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}

  def apply(params: Params, method: str, *args, **settings):
    rebuilt = nnx.from_flat_state(
      [(paths[name], nnx.Param(params[name])) for name in paths]
    )
    merged = nnx.merge(graph, rebuilt)
    return getattr(merged, method)(*args, **settings)

  return apply, {name: leaf.get_value() for name, leaf in flat.items()}
