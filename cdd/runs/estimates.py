"""Owns what a plan means: its numbers by name, the time they take at least, and their lines."""

from collections.abc import Mapping, Sequence

import jax

from cdd.runs.planning import Plan
from cdd.runs.topologies import CHIPS, GIB, Chip, named
from cdd.training import chips

MIB = 2**20
# An all-reduce receives every part of its result twice: to sum it, and to have it.
TIMES = {'all-reduce': 2}


def fields(plan: Plan, topology: str, devices: Sequence[jax.Device]) -> dict:
  """The numbers of a plan, as JSON has them."""
  count, chip = chips.count(devices), CHIPS.get(named(topology)[0])
  parts = len(devices) // count
  memory = {kind: parts * size / GIB for kind, size in plan.held.items() if size}
  found = dict(
    topology=topology,
    chips=count,
    images=plan.images,
    parameters_trained=plan.trainable,
    parameters=plan.total,
    memory_gib=memory,
    peak_gib=sum(memory.values()),
    capacity_gib=capacity(chip, devices),
    tflop=plan.flops / 1e12,
    tflop_in_kernels=plan.kernels / 1e12,
    tflop_per_image=plan.flops / 1e12 / plan.images,
    gb_accessed=parts * plan.cost.bytes / 1e9,
    mcycles=plan.cost.cycles and plan.cost.cycles / 1e6,
    received_mib={kind: parts * n / MIB for kind, n in sorted(plan.cost.collectives.items())},
    not_in_cycles=dict(plan.cost.silent),
    loops_counted_once=plan.cost.unknown,
    compiled_in_seconds=plan.seconds,
  )
  peak = chips.peak(devices[0].device_kind)
  found['milliseconds'] = milliseconds(found, chip, peak)
  found['mfu'] = utilization(found['milliseconds'])
  return found


def capacity(chip: Chip | None, devices: Sequence[jax.Device]) -> float | None:
  """GiB of memory of a chip; None where it is not known."""
  if chip:
    return float(chip.memory)
  try:
    stats = devices[0].memory_stats() or {}
  except jax.errors.JaxRuntimeError:
    stats = {}
  return stats['bytes_limit'] / GIB if 'bytes_limit' in stats else None


def milliseconds(found: Mapping, chip: Chip | None, peak: float | None) -> dict[str, float]:
  """What each part of a program takes at least, at the published rates of a chip.

  'work' are the products and convolutions, 'memory' the bytes read and written, 'links' those
  received of other chips, and 'cycles' the compiler's estimate, of what is computed alone, with
  fused kernels, for which it has none, at the chip's peak.
  """
  times = {}
  if peak:
    times['work'] = found['tflop'] * 1e12 / found['chips'] / peak
  if chip:
    received = sum(TIMES.get(kind, 1) * size for kind, size in found['received_mib'].items())
    times['memory'] = found['gb_accessed'] * 1e9 / chip.bandwidth
    times['links'] = received * MIB / chip.links
    if found['mcycles'] and chip.clock:
      kernels = found['tflop_in_kernels'] * 1e12 / found['chips'] / peak if peak else 0
      times['cycles'] = found['mcycles'] * 1e6 / chip.clock + kernels
  return {name: 1e3 * seconds for name, seconds in times.items()}


def utilization(times: Mapping[str, float]) -> dict[str, float]:
  """The share of the peak at which the work is done, by the slowest part, and by the cycles."""
  if 'work' not in times:
    return {}
  roofline = max(times[name] for name in ('work', 'memory', 'links') if name in times)
  by = dict(roofline=roofline, cycles=times.get('cycles'))
  return {name: times['work'] / of for name, of in by.items() if of}


def lines(found: Mapping, earlier: Mapping | None = None) -> str:
  """A plan as lines of text.

  Args:
    earlier: the fields of another plan, to which each number is compared.
  """

  def beside(*names: str) -> str:
    ratio = compared(found, earlier, names) if earlier else None
    return '' if ratio is None else f' ({ratio:.3f} of the earlier)'

  memory, times, share = found['memory_gib'], found['milliseconds'], found['mfu']
  rows = {
    'parameters': f'{found["parameters_trained"]:,} trained of {found["parameters"]:,}',
    'memory of a chip': f'{of_capacity(found)}{beside("peak_gib")}',
    **{
      f'  {kind}': f'{spelled(size)}{beside("memory_gib", kind)}' for kind, size in memory.items()
    },
    'work': f'{found["tflop"]:.3f} TFLOP on all chips, {found["tflop_per_image"]:.3f} an image '
    f'(products and convolutions){beside("tflop")}',
    'read and written': f"{found['gb_accessed']:.2f} GB of a chip's memory{beside('gb_accessed')}",
    'received by a chip': ', '.join(
      f'{kind} {size:.1f} MiB{beside("received_mib", kind)}'
      for kind, size in found['received_mib'].items()
    )
    or 'nothing',
  }
  if found['mcycles']:
    rows['cycles'] = f'{found["mcycles"]:.2f} million, by the compiler{beside("mcycles")}'
  if times:
    rows['time at least'] = ', '.join(f'{name} {ms:.2f} ms' for name, ms in times.items())
  if share:
    of = ', '.join(f'{value:.1%} by {name}' for name, value in share.items())
    rows['share of the peak'] = f'{of}{beside("mfu", "cycles")}'
  if found['not_in_cycles']:
    calls = ', '.join(f'{count} {name}' for name, count in found['not_in_cycles'].items())
    rows['not in the cycles'] = f'calls that the compiler gives none: {calls}'
  if found['loops_counted_once']:
    rows['counted once'] = f'{found["loops_counted_once"]} loops of unknown length'
  rows['compiled in'] = f'{found["compiled_in_seconds"]:.0f} s'
  return '\n'.join(f'{name:<20} {value}' for name, value in rows.items())


def spelled(gib: float) -> str:
  """In GiB, or in MiB if it is less than a tenth."""
  return f'{gib:.2f} GiB' if gib >= 0.1 else f'{1024 * gib:.2f} MiB'


def of_capacity(found: Mapping) -> str:
  """'12.30 GiB of 16 GiB', and whether that fits."""
  peak, has = found['peak_gib'], found['capacity_gib']
  if has is None:
    return spelled(peak)
  return f'{spelled(peak)} of {has:g} GiB: {"fits" if fits(found) else "DOES NOT FIT"}'


def fits(found: Mapping) -> bool:
  """Whether the parts of a program have room in a chip's memory together."""
  return found['capacity_gib'] is None or found['peak_gib'] <= found['capacity_gib']


def compared(found: Mapping, earlier: Mapping, names: Sequence[str]) -> float | None:
  """The ratio of a number to that of an earlier plan; None where one of them has none."""
  for name in names:
    found, earlier = (dict(each or {}).get(name) for each in (found, earlier))
  return found / earlier if found and earlier else None
