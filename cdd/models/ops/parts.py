"""Owns in how many parts an array lies over the devices of the program that is being traced."""

import math

import jax
from jax.sharding import AxisType


def parts(*axes: str) -> int:
  """The product of the sizes of axes of the mesh in use (`sharding.jit`); 1 without one.

  An axis over which each device already sees its own part alone (`jax.shard_map`) counts as 1.
  """
  shape = jax.sharding.get_abstract_mesh().shape
  return math.prod(shape[axis] for axis in automatic(*axes))


def automatic(*axes: str) -> tuple[str, ...]:
  """Those of the axes over which the compiler cuts arrays, of the mesh in use."""
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  return tuple(axis for axis in axes if kinds.get(axis) == AxisType.Auto)
