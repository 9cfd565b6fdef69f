"""Owns in how many parts an array lies over the devices of the program that is being traced."""

import math

import jax
from jax.sharding import AxisType


def parts(*axes: str) -> int:
  """The product of the sizes of axes of the mesh in use (`sharding.jit`); 1 without one.

  An axis over which each device already sees its own part alone (`jax.shard_map`) counts as 1.
  """
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  return math.prod(mesh.shape[axis] for axis in axes if kinds.get(axis) == AxisType.Auto)
