import atexit
import gc
import os
import shutil
import tempfile

# What jax reads when it is imported.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# The networks of the tests are tiny: compiling them takes most of the time.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  # One cache of programs for a run of the suite: its workers and the commands that tests start.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='cdd_tests_')
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
  atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402
import tiny  # noqa: E402

from cdd.core import runtime  # noqa: E402

# As the command lines have it, with programs that compile faster; memory is returned, however.
os.environ.setdefault(
  'XLA_FLAGS', f'--xla_cpu_use_fusion_emitters=false {runtime.FLAGS["XLA_FLAGS"]}'
)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='module', autouse=True)
def forget_programs():
  """Drops the programs of a file at its end: a worker would hold gigabytes of them."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture(scope='session')
def prior(tmp_path_factory):
  """The folder of a tiny random prior."""
  return tiny.prior(tmp_path_factory.mktemp('prior'))
