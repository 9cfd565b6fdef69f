"""Owns which weights the networks cast to the dtype that they compute in before all else."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from cdd.core import trees
from cdd.core.types import Params

# (pattern of paths, whether they are cast), first match wins: the weights of linear layers and of
# convolutions. Norms compute in float32, an upsampler adds its taps before it casts them
# (`ops/upsampling.py`), embeddings are used as they are, and so may an adapter's weights be.
CAST = (
  (r'adapter[.].*|.*norm\w*[.]\w+|.*[.]upsamplers[.].*kernel', False),
  (r'.*[.](kernel|bias)', True),
  ('.*', False),
)


def computes_in(config, dtype) -> jnp.dtype:
  """What a component computes in where the others compute in `dtype`."""
  upcast = getattr(config, 'force_upcast', False) and jnp.dtype(dtype) == jnp.float16
  return jnp.dtype(jnp.float32 if upcast else dtype)


def held(params: Params, configs: Mapping[str, Any], dtype) -> Params:
  """Frozen weights as a step may hold them: what it would cast again and again is cast once.

  Args:
    params: also of copies of components, below 'teacher.'.
    configs: component -> its config.
    dtype: what the networks compute in.
  """
  cast = trees.match(CAST, params)

  def of(path: str, leaf):
    component = path.removeprefix('teacher.').split('.')[0]
    kind = computes_in(configs.get(component), dtype)
    return leaf.astype(kind) if cast[path] and leaf.dtype != kind else leaf

  return {path: of(path, leaf) for path, leaf in params.items()}
