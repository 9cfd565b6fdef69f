"""Owns placement: the mesh, and which axes of a parameter are cut over it."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.registry import choose

AXES = ('data', 'fsdp', 'tensor')
# (pattern of paths, a name in MODES): what becomes of the parameters whose path matches first.
Rules = Sequence[tuple[str, str]]
FSDP: Rules = (('.*', 'fsdp'),)
SMALL = 0.01  # Of all bytes of the parameters.
LISTED = 10
LEAST = 2**14  # Numbers of a parameter that is worth cutting.
# The layers in pairs of a transformer, of U-Nets and of text encoders: what the first of a pair
# makes of its columns the second reads by its rows, so that chips exchange only the second's sum.
COLUMNS = r'.*[.](to_[qkv]|net[.]0[.]proj|[qkv]_proj|fc1)[.]kernel'
ROWS = r'.*[.](to_out[.]0|net[.]2|out_proj|fc2)[.]kernel'


def make_mesh(
  *, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence | None = None
) -> Mesh:
  """A (data, fsdp, tensor) mesh.

  Over several slices of TPUs, which are joined by the slower network of the data centre, `data` is
  cut first: nothing but gradients goes from slice to slice.

  Args:
    data: how many parts of the batch have parameters of their own; -1 takes the devices left.
    fsdp: how many share the parameters and the moments, each with a part of the batch.
    tensor: how many compute one part of the batch together (`MODES`).

  Raises:
    UserError: the sizes do not multiply to the number of devices, or do not fit the slices.
  """
  devices = list(devices if devices is not None else jax.devices())
  sizes = sized(dict(data=data, fsdp=fsdp, tensor=tensor), len(devices))
  # Explicit axes, the default of jax 0.10, refuse sharded convolution kernels.
  kinds = dict(axis_types=(AxisType.Auto,) * len(AXES))
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if slices == 1:
    return jax.make_mesh(tuple(sizes.values()), AXES, devices=devices, **kinds)
  if sizes['data'] % slices:
    raise UserError(
      f'A mesh of {spelled(sizes)} does not fit {slices} slices: config.mesh.data must be a '
      'multiple of their number, as nothing else may be cut over slices.'
    )
  inside = dict(sizes, data=sizes['data'] // slices)
  across = dict.fromkeys(AXES, 1) | dict(data=slices)
  places = mesh_utils.create_hybrid_device_mesh(
    tuple(inside.values()), tuple(across.values()), devices
  )
  return Mesh(places, AXES, **kinds)


def sized(sizes: Mapping[str, int], count: int) -> dict[str, int]:
  """The sizes of the axes, with the one that is -1 as what is left of so many devices.

  Raises:
    UserError: they do not multiply to it.
  """
  free = [name for name, size in sizes.items() if size == -1]
  known = math.prod(size for size in sizes.values() if size != -1)
  if len(free) > 1 or known < 1 or count % known:
    raise UserError(f'A mesh of {spelled(sizes)} does not divide {count} devices.')
  sizes = dict(sizes) | dict.fromkeys(free, count // known)
  if math.prod(sizes.values()) != count:
    raise UserError(f'A mesh of {spelled(sizes)} does not fill {count} devices.')
  return sizes


def spelled(sizes: Mapping[str, int]) -> str:
  return ', '.join(f'{name}={size}' for name, size in sizes.items())


def parts(mesh: Mesh) -> int:
  """Into how many parts a batch is cut."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def fsdp(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Cuts the largest axis that the size of the fsdp axis divides; small leaves are not cut."""
  del path
  return cut(shape, mesh, {})


def replicate(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  del path, shape
  return replicated(mesh)


def columns(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Cuts the outputs of a layer, its last axis, over tensor, and another one as `fsdp` does."""
  del path
  return cut(shape, mesh, {len(shape) - 1: 'tensor'})


def rows(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Cuts the inputs of a layer, its last axis but one, over tensor, and another as `fsdp` does."""
  del path
  return cut(shape, mesh, {len(shape) - 2: 'tensor'})


def tensor(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """`columns` and `rows` for the layers of transformers, `fsdp` for all others."""
  mode = trees.match(((COLUMNS, columns), (ROWS, rows), ('.*', fsdp)), [path])[path]
  return mode(path, shape, mesh)


def cut(shape: tuple[int, ...], mesh: Mesh, axes: Mapping[int, str]) -> NamedSharding:
  """An array cut over the axes of the mesh that are given, where they divide it, and over fsdp."""
  if np.prod(shape) < LEAST:
    return replicated(mesh)
  axes = {
    axis: name
    for axis, name in axes.items()
    if 0 <= axis < len(shape) and mesh.shape[name] > 1 and shape[axis] % mesh.shape[name] == 0
  }
  size = mesh.shape['fsdp']
  fits = [axis for axis, n in enumerate(shape) if n % size == 0 and axis not in axes]
  if size > 1 and fits:
    axes[max(fits, key=lambda axis: shape[axis])] = 'fsdp'
  return NamedSharding(mesh, PartitionSpec(*(axes.get(axis) for axis in range(len(shape)))))


def zero1(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array, unless it is trained: then it is cut (`TRAINED`)."""
  return replicate(path, shape, mesh)


def over_all(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Cuts the largest axis that the number of the batch's parts divides; small leaves are not."""
  del path
  fits = [axis for axis, n in enumerate(shape) if n % parts(mesh) == 0]
  if np.prod(shape) < LEAST or not fits:
    return replicated(mesh)
  largest = max(fits, key=lambda axis: shape[axis])
  return NamedSharding(mesh, PartitionSpec(*[None] * largest, ('data', 'fsdp')))


# What a rule of config.sharding may name: (path, shape, mesh) -> where it lies.
MODES = dict(fsdp=fsdp, replicate=replicate, columns=columns, rows=rows, tensor=tensor, zero1=zero1)
# The same for what is trained (zero1: Rajbhandari et al., 2019, arXiv:1910.02054: the weights in
# float32 are of the optimiser's state; a step gathers them in the dtype that it computes in).
TRAINED = MODES | dict(zero1=over_all)


def of_params(
  params, mesh: Mesh, rules: Rules = FSDP, modes: Mapping[str, Callable] = MODES
) -> dict[str, NamedSharding]:
  """A sharding for every leaf of a flat tree.

  Args:
    rules: (pattern, a name in `modes`).

  Raises:
    UserError: an unknown mode, or a path that no pattern matches.
  """
  names = trees.match(rules, params)
  return {
    path: choose(modes, names[path], 'mode of config.sharding')(path, leaf.shape, mesh)
    for path, leaf in params.items()
  }


def whole(params, mesh: Mesh, rules: Rules = FSDP, *, trained: Iterable[str] = ()) -> str:
  """What to say of parameters that every chip holds whole though the mesh shares them.

  Empty where nothing is shared, or where that is at most 1 % of their bytes; else the share and
  the largest of them.

  Args:
    trained: the paths of those that are trained.
  """
  if parts(mesh) == mesh.shape['data'] and mesh.shape['tensor'] == 1:
    return ''
  learnt = {path: params[path] for path in trained}
  places = of_params(params, mesh, rules) | of_params(learnt, mesh, rules, TRAINED)
  size = {path: math.prod(leaf.shape) * leaf.dtype.itemsize for path, leaf in params.items()}
  left = [path for path in params if places[path].is_fully_replicated]
  share = sum(size[path] for path in left) / max(1, sum(size.values()))
  if share <= SMALL:
    return ''
  first = sorted(left, key=size.get, reverse=True)[:LISTED]
  named = ', '.join(f'{path} {size[path] / 2**20:.1f} MiB' for path in first)
  more = f' and {len(left) - len(first)} more' if len(left) > len(first) else ''
  return f'{share:.1%} of the parameters lie whole on every chip (config.sharding): {named}{more}.'


def placer(mesh: Mesh, rules: Rules = FSDP) -> Callable[[str, np.ndarray], jax.Array]:
  """(path, array) -> the array on the devices, as `of_params` would lay it: one leaf at a time."""

  def place(path: str, array: np.ndarray) -> jax.Array:
    sharding = of_params({path: array}, mesh, rules)[path]
    placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    return placed.block_until_ready()  # Only then is the host's copy given back.

  return place


def of_state(state, mesh: Mesh, rules: Rules = FSDP):
  """Shardings for a whole (abstract) state: averages and moments lie as their parameter does."""
  places = of_params(state.params, mesh, rules, TRAINED)

  def place(path, leaf):
    name = getattr(path[-1], 'key', None)
    same = name in places and leaf.shape == state.params[name].shape
    return places[name] if same else replicated(mesh)

  return jax.tree_util.tree_map_with_path(place, state)


def on(mesh: Mesh):
  """A context in which what is traced knows the mesh (`models/ops/parts.py`)."""
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def jit(function: Callable, mesh: Mesh, **settings) -> Callable:
  """`jax.jit` of a function on a mesh."""

  @functools.wraps(function)
  def on_mesh(*args):
    with on(mesh):
      return function(*args)

  return jax.jit(on_mesh, **settings)


def over_devices(function: Callable, mesh: Mesh) -> Callable:
  """A function of a batch that each device computes of its own examples.

  Args:
    function: it must treat every example alone.
  """
  spec = over_batch(mesh).spec
  return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


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


def examples(mesh: Mesh, batch_size: int) -> list[int]:
  """Which examples of a global batch lie on the devices of this process, ascending.

  Raises:
    UserError: the devices do not divide the batch.
  """
  refuse_uneven(mesh, batch_size)
  places = over_batch(mesh).addressable_devices_indices_map((batch_size,))
  # Those that compute one part together have the same.
  return sorted({row for (cut,) in places.values() for row in range(batch_size)[cut]})


def refuse_uneven(mesh: Mesh, batch_size: int) -> None:
  """Raises a UserError if the devices do not divide a global batch."""
  if batch_size % parts(mesh):
    raise UserError(
      f'config.data.batch_size={batch_size} cannot be divided among {parts(mesh)} devices.'
    )


def put_batch(batch, mesh: Mesh):
  """A host batch (the `examples` of this process) as global arrays, cut over all devices."""
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
