"""Owns placement: the mesh, and which axis of a parameter is cut over it."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.registry import choose

# (pattern of paths, what becomes of the parameters that match): the first match counts.
Rules = Sequence[tuple[str, str]]
FSDP: Rules = (('.*', 'fsdp'),)


def make_mesh(*, data: int = -1, fsdp: int = 1, devices: Sequence | None = None) -> Mesh:
  """A (data, fsdp) mesh; -1 takes the devices that are left.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = list(devices if devices is not None else jax.devices())
  count = len(devices)
  if -1 in (data, fsdp):
    known = data * fsdp * -1 if data != fsdp else 0
    if known < 1 or count % known:
      raise UserError(f'A mesh of data={data}, fsdp={fsdp} does not divide {count} devices.')
    data, fsdp = (count // known, fsdp) if data == -1 else (data, count // known)
  if data * fsdp != count:
    raise UserError(f'A mesh of data={data}, fsdp={fsdp} does not fill {count} devices.')
  # Explicit axes, the default of jax 0.10, refuse sharded convolution kernels.
  return jax.make_mesh(
    (data, fsdp), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2, devices=devices
  )


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def fsdp(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Cuts the largest axis that the size of the fsdp axis divides; small leaves are not cut."""
  size = mesh.shape['fsdp']
  fits = [axis for axis, n in enumerate(shape) if n % size == 0]
  if size == 1 or not fits or np.prod(shape) < 2**14:
    return replicated(mesh)
  best = max(fits, key=lambda axis: shape[axis])
  axes = ('fsdp' if axis == best else None for axis in range(len(shape)))
  return NamedSharding(mesh, PartitionSpec(*axes))


def replicate(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  del shape
  return replicated(mesh)


# What a rule of config.sharding may name.
MODES = dict(fsdp=fsdp, replicate=replicate)


def of_params(params, mesh: Mesh, rules: Rules = FSDP) -> dict[str, NamedSharding]:
  """A sharding for every leaf of a flat tree.

  Args:
    rules: (pattern, a name in MODES); 'fsdp' cuts over the fsdp axis, 'replicate' cuts nothing.

  Raises:
    UserError: an unknown mode, or a path that no pattern matches.
  """
  modes = trees.match(rules, params)
  return {
    path: choose(MODES, modes[path], 'mode of config.sharding')(leaf.shape, mesh)
    for path, leaf in params.items()
  }


def placer(mesh: Mesh, rules: Rules = FSDP) -> Callable[[str, np.ndarray], jax.Array]:
  """(path, array) -> the array on the devices, as `of_params` would lay it: one leaf at a time."""

  def place(path: str, array: np.ndarray) -> jax.Array:
    sharding = of_params({path: array}, mesh, rules)[path]
    placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    return placed.block_until_ready()  # Only then is the host's copy given back.

  return place


def of_state(state, mesh: Mesh, rules: Rules = FSDP):
  """Shardings for a whole (abstract) state: moments and averages lie as their parameter does."""
  by_path = of_params(state.params, mesh, rules)

  def place(path, leaf):
    name = getattr(path[-1], 'key', None)
    same = name in by_path and leaf.shape == state.params[name].shape
    return by_path[name] if same else replicated(mesh)

  return jax.tree_util.tree_map_with_path(place, state)


def over_devices(function: Callable, mesh: Mesh) -> Callable:
  """A function of a batch that each device computes of its own examples.

  Args:
    function: it must treat every example alone.
  """
  cut = over_batch(mesh).spec
  return jax.shard_map(function, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)


def readable(params, mesh: Mesh) -> dict:
  """A flat tree of which this process can read every leaf completely; every process calls it.

  An array that is cut over processes is gathered and copied to the host, one leaf at a time;
  any other stays as it is.
  """
  gather = jax.jit(lambda leaf: leaf, out_shardings=replicated(mesh))

  def complete(leaf):
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
      return leaf
    return np.asarray(gather(leaf))

  return {path: complete(leaf) for path, leaf in params.items()}


def rows(mesh: Mesh, batch_size: int) -> list[int]:
  """Which examples of a global batch lie on the devices of this process, ascending.

  Raises:
    UserError: the devices do not divide the batch.
  """
  refuse_uneven(mesh, batch_size)
  places = over_batch(mesh).addressable_devices_indices_map((batch_size,))
  return sorted(row for (cut,) in places.values() for row in range(batch_size)[cut])


def refuse_uneven(mesh: Mesh, batch_size: int) -> None:
  """Raises a UserError if the devices do not divide a global batch."""
  if batch_size % mesh.size:
    raise UserError(
      f'config.data.batch_size={batch_size} cannot be divided among {mesh.size} devices.'
    )


def put_batch(batch, mesh: Mesh):
  """A host batch (the `rows` of this process) as global arrays, cut over all devices."""
  place = over_batch(mesh)
  return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(place, leaf), batch)


def spread(batch, mesh: Mesh):
  """A whole host batch, the same on every process, as global arrays: each device has a part of it.

  Where the devices do not divide the batch, each has all of it.
  """

  def put(leaf):
    leaf = np.asarray(leaf)
    place = replicated(mesh) if len(leaf) % mesh.size else over_batch(mesh)
    return jax.make_array_from_callback(leaf.shape, place, lambda index: leaf[index])

  return jax.tree.map(put, batch)
