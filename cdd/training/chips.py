"""Owns what is known of chips: how many there are, how fast they can be, the memory in use."""

import resource
import sys
from collections.abc import Sequence

import jax

# Operations per second of a chip's dense bfloat16 products (float16 for those without bfloat16), by
# what jax calls the devices; of Google's and NVIDIA's data sheets, without sparsity. A name that
# jax continues, such as 'NVIDIA A100-SXM4-80GB', is found by its beginning, the longest first.
PEAK = {
  'TPU v2': 46e12,
  'TPU v3': 123e12,
  'TPU v4': 275e12,
  'TPU v5': 459e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'TPU7x': 2307e12,
  'NVIDIA A100': 312e12,
  'NVIDIA B200': 2250e12,
  'NVIDIA H100': 989e12,
  'NVIDIA H100 NVL': 835e12,
  'NVIDIA H100 PCIe': 756e12,
  'NVIDIA H200': 989e12,
  'NVIDIA L4': 121e12,
  'NVIDIA L40S': 362e12,
  'Tesla T4': 65e12,
  'Tesla V100': 125e12,
}
GIB = 2**30


def count(devices: Sequence[jax.Device]) -> int:
  """The number of chips: of a TPU whose cores are devices of their own, they share one."""

  def chip(device):
    place = getattr(device, 'coords', None)
    return (getattr(device, 'slice_index', 0), *place) if place else device.id

  return len({chip(device) for device in devices})


def peak(kind: str) -> float | None:
  """The entry of PEAK for a device's `device_kind`; None if it is unknown, such as a CPU."""
  found = [name for name in PEAK if kind == name or kind.startswith((f'{name} ', f'{name}-'))]
  return PEAK[max(found, key=len)] if found else None


def memory() -> dict[str, float]:
  """The most memory that was in use so far, in GiB: of a device of this process, or of the process.

  The process itself is measured where the devices, as those of a CPU, do not say.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  used = [each['peak_bytes_in_use'] for each in stats if 'peak_bytes_in_use' in each]
  if used:
    return dict(device_memory_gib=max(used) / GIB)
  unit = 1 if sys.platform == 'darwin' else 2**10
  resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return dict(host_memory_gib=resident * unit / GIB)
