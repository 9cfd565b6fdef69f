"""Owns what a command line sets before jax starts: XLA flags, memory, the cache of programs.

Importing the package sets nothing of it.
"""

import ctypes
import glob
import os
import sys
from pathlib import Path

import jax

# Environment variable -> a flag of XLA; CDD_XLA_FLAGS=off sets none (docs/performance.md).
# XLA's CPU backend hands convolutions to a library whose weight gradient is up to three times
# slower than its own. Its TPU backend computes large gradients that chips share in turns, one for
# each chip's part of a kernel, which fill a fraction of the matrix unit; none is as large as this.
FLAGS = dict(
  XLA_FLAGS='--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION',
  LIBTPU_INIT_ARGS='--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000',
)
# malloc.h's numbers: one arena for all threads, no block from mmap, nothing trimmed.
MALLOC = dict(arena_max=(-8, 1), mmap_max=(-4, 0), trim_threshold=(-1, -1))


# libtpu, which the plan extra installs, complains at length where it finds no TPU and no word of
# one. It looks for a metadata server, and takes a lock for the whole machine, unless told not to.
NO_TPU = dict(
  TPU_SKIP_MDS_QUERY='1',
  TPU_WORKER_HOSTNAMES='localhost',
  TPU_ACCELERATOR_TYPE='v5litepod-4',
  ALLOW_MULTIPLE_LIBTPU_LOAD='1',
)
CHIPS = '/dev/accel*', '/dev/vfio/[0-9]*'  # The files of TPUs.


def configure() -> None:
  """Sets the flags and the memory, unless CDD_XLA_FLAGS=off, and the cache of programs.

  To be called before the first array is made: XLA reads its flags when its backend starts.
  """
  if os.environ.get('CDD_XLA_FLAGS', 'on') != 'off':
    for variable, flag in FLAGS.items():
      add(variable, flag)
    never_return_memory()
  if not any(map(glob.glob, CHIPS)):
    without_tpus()
  cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'cdd' / 'xla'
  defaults = dict(
    jax_compilation_cache_dir=str(cache), jax_persistent_cache_min_compile_time_secs=1.0
  )
  for name, value in defaults.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)


def add(variable: str, flag: str) -> None:
  """Adds '--name=value' to the flags of an environment variable, unless it names that one."""
  flags = os.environ.get(variable, '')
  if flag.partition('=')[0] not in flags:
    os.environ[variable] = f'{flags} {flag}'.strip()


def without_tpus() -> None:
  """Tells libtpu, if it is installed, that this machine has no TPUs; what is set already counts."""
  for name, value in NO_TPU.items():
    os.environ.setdefault(name, value)


def never_return_memory() -> None:
  """Makes glibc reuse what is freed instead of returning it; other C libraries are left alone.

  XLA's CPU backend allocates the scratch memory of a program at every call. glibc returns blocks of
  that size to the kernel, so that every step would fault all its pages in anew.
  """
  libc = ctypes.CDLL(None) if sys.platform == 'linux' else None
  for setting, value in MALLOC.values() if hasattr(libc, 'mallopt') else ():
    libc.mallopt(setting, value)
