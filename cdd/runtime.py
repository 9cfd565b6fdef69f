"""Owns what must be set before jax starts: XLA flags and the compilation cache. Import it first."""

import os

# XLA's CPU backend hands convolutions to a library whose weight gradient is up to three times
# slower than its own (docs/performance.md). CDD_XLA_FLAGS=off leaves XLA as it is.
CPU_CONVOLUTIONS = (
  '--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'
)


def configure() -> None:
  """Sets the flags, unless CDD_XLA_FLAGS=off, and the cache of compiled programs."""
  flags = os.environ.get('XLA_FLAGS', '')
  if os.environ.get('CDD_XLA_FLAGS', 'on') != 'off' and CPU_CONVOLUTIONS not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {CPU_CONVOLUTIONS}'.strip()
  cache = os.path.join(
    os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache')), 'cdd', 'xla'
  )
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', cache)
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '1')
