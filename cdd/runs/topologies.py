"""Owns the devices that a plan is for: absent TPUs, devices of this CPU, those that are present."""

import importlib.util
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from cdd.core import runtime
from cdd.core.errors import UserError

GIB = 2**30


class Chip(NamedTuple):
  """A kind of TPU chip.

  Attributes:
    memory: its HBM in GiB.
    bandwidth: of its HBM, in bytes per second.
    links: what it receives at most from other chips of its slice over all links, in bytes per
      second (half of Google's "bidirectional inter-chip bandwidth").
    clock: in Hz, at which its matrix units reach the published operations per second; None if
      their number is not published.
    cores: that Google counts in names such as v5p-16, of which a chip has so many.
    devices: of jax, that share the memory and the links of a chip.
    shapes: number of chips -> the topology that Google makes of it.
  """

  memory: float
  bandwidth: float
  links: float
  clock: float | None
  cores: int
  devices: int
  shapes: dict[int, str]


FLAT = {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16'}
CUBES = {
  4: '2x2x1',
  8: '2x2x2',
  16: '2x2x4',
  32: '2x4x4',
  64: '4x4x4',
  128: '4x4x8',
  256: '4x8x8',
  512: '8x8x8',
}
# Google Cloud's page on each version (2026-11), which counts both directions of a link.
CHIPS = dict(
  v4=Chip(32, 1.228e12, 300e9, 1.05e9, 2, 2, CUBES),
  v5e=Chip(16, 0.819e12, 200e9, 1.5e9, 1, 1, FLAT),
  v5p=Chip(95, 2.765e12, 600e9, 1.75e9, 2, 1, CUBES),
  v6e=Chip(32, 1.64e12, 400e9, 1.75e9, 1, 1, FLAT),
  tpu7x=Chip(192, 7.38e12, 600e9, None, 2, 2, CUBES),
)
ALIASES = dict(v5litepod='v5e', v5lite='v5e', v6lite='v6e')
HERE = 'here'


def named(topology: str) -> tuple[str, str]:
  """(kind, shape) of a topology: 'v5e:4x4', or Google's names, 'v5e-16', 'v5litepod-16', 'v5p-32'.

  'cpu:4' is ('cpu', '4'), and 'here' is ('here', '').

  Raises:
    UserError: it spells none; names the choices.
  """
  kind, colon, shape = topology.partition(':')
  if topology == HERE or kind == 'cpu':
    return kind, shape
  kind, dash, number = (kind, '', '') if colon else topology.rpartition('-')
  kind = ALIASES.get(kind, kind)
  if kind not in CHIPS:
    known = [f"'{name}:{shapes_of(name)[4]}'" for name in CHIPS]
    raise UserError(
      f"There is no topology {topology!r}; choose 'cpu:N', 'here', or one of a kind of TPU such as "
      f'{", ".join(known)}.'
    )
  if dash:
    chips = int(number) / CHIPS[kind].cores if number.isdecimal() else 0
    shape = shapes_of(kind).get(chips)
  sides = re.fullmatch(r'\d+(x\d+){1,2}', shape or '')
  if not sides or shape.count('x') != shapes_of(kind)[4].count('x'):
    cores = CHIPS[kind].cores
    known = [f'{kind}:{s} ({kind}-{n * cores})' for n, s in shapes_of(kind).items()]
    raise UserError(f'There is no topology {topology!r}; choose one of {", ".join(known)}.')
  return kind, shape


def shapes_of(kind: str) -> dict[int, str]:
  """Number of chips -> a topology."""
  return CHIPS[kind].shapes


def prepare(topology: str) -> None:
  """Sets what must be set before jax looks for devices.

  Raises:
    UserError: there is no such topology.
  """
  kind, _ = named(topology)
  if kind == HERE:
    return
  jax.config.update('jax_platforms', 'cpu')
  if kind == 'cpu':
    jax.config.update('jax_num_cpu_devices', cpus(topology))
  else:  # Jax writes programs for chips that are not there to its cache, and cannot read them.
    jax.config.update('jax_enable_compilation_cache', False)
  runtime.without_tpus()


def devices(topology: str) -> list:
  """The devices of a topology.

  Raises:
    UserError: there is no such topology, or libtpu is not installed.
  """
  kind, shape = named(topology)
  if kind == HERE:
    return jax.devices()
  if kind == 'cpu':
    return jax.devices('cpu')[: cpus(topology)]
  if not importlib.util.find_spec('libtpu'):
    raise UserError("Compiling for TPUs needs the plan extra: pip install 'cdd-jax[plan]'.")
  settings = dict(chips_per_host_bounds=(1, 1, 1)) if shape in ('1x1', '1x1x1') else {}
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=f'{kind}:{shape}', **settings
    )
  except jax.errors.JaxRuntimeError as error:
    known = ', '.join(f'{kind}:{each}' for each in shapes_of(kind).values())
    raise UserError(f'There is no topology {topology!r}; choose one of {known}.') from error
  return found.devices


def cpus(topology: str) -> int:
  """'cpu:4' -> 4; 'cpu' is one device.

  Raises:
    UserError: the number is none.
  """
  count = topology.partition(':')[2] or '1'
  if not (count.isdecimal() and int(count)):
    raise UserError(
      f'There is no topology {topology!r}; cpu:N needs a number of devices, 1 or more.'
    )
  return int(count)
