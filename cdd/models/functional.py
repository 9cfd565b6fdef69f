"""Owns the door between flax.nnx modules and flat dicts: {'down_blocks.0.conv.kernel': array}."""

from collections.abc import Callable

import jax
from flax import nnx

from cdd.core.types import Array, Params


class Keys:
  """The stream of keys of `nnx.Rngs(seed)`, which a module's constructor takes as `rngs`.

  It counts in Python: nnx.Rngs counts in an array, which under tracing takes time that grows with
  the square of the number of layers, 7 s for the U-Net of Stable Diffusion instead of 0.7.
  """

  def __init__(self, seed: int):
    self._key, self._count = jax.random.key(seed), 0

  def params(self) -> Array:
    self._count += 1
    return jax.random.fold_in(self._key, self._count - 1)


def bind(module: nnx.Module) -> tuple[Callable, Params]:
  """(apply, params): `apply(params, 'method', *args)` calls a method with these parameters.

  Paths that the module lacks are ignored, so the tree of a run may be given.
  """
  graph, state = nnx.split(module)
  leaves = nnx.to_flat_state(state)
  paths = {'.'.join(map(str, path)): path for path, _ in leaves}

  def apply(params: Params, method: str, *args, **settings):
    flat = [(path, nnx.Param(params[name])) for name, path in paths.items()]
    return getattr(nnx.merge(graph, nnx.from_flat_state(flat)), method)(*args, **settings)

  return apply, {'.'.join(map(str, path)): leaf.get_value() for path, leaf in leaves}


def abstract(make: Callable[[], nnx.Module]) -> tuple[Callable, Params]:
  """The same without making an array: the parameters are shapes."""
  return bind(nnx.eval_shape(make))
