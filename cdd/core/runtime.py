"""Owns what must be set before jax starts: XLA flags, memory, the cache. Import it first."""

import ctypes
import os
import sys

# XLA's CPU backend hands convolutions to a library whose weight gradient is up to three times
# slower than its own (docs/performance.md). CDD_XLA_FLAGS=off leaves XLA as it is.
CPU_CONVOLUTIONS = (
  '--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'
)
# malloc.h's numbers: one arena for all threads, no block from mmap, nothing trimmed.
MALLOC = dict(arena_max=(-8, 1), mmap_max=(-4, 0), trim_threshold=(-1, -1))


def configure() -> None:
  """Sets the flags and the memory, unless CDD_XLA_FLAGS=off, and the cache of programs."""
  flags = os.environ.get('XLA_FLAGS', '')
  if os.environ.get('CDD_XLA_FLAGS', 'on') != 'off':
    if CPU_CONVOLUTIONS not in flags:
      os.environ['XLA_FLAGS'] = f'{flags} {CPU_CONVOLUTIONS}'.strip()
    keep_memory()
  cache = os.path.join(
    os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache')), 'cdd', 'xla'
  )
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', cache)
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '1')


def keep_memory() -> None:
  """Has glibc keep what is freed; other C libraries are left alone.

  XLA's CPU backend allocates the scratch memory of a program at every call. glibc gives blocks of
  that size back to the kernel, so that every step faults all its pages in anew.
  """
  libc = ctypes.CDLL(None) if sys.platform == 'linux' else None
  for setting, value in MALLOC.values() if hasattr(libc, 'mallopt') else ():
    libc.mallopt(setting, value)
