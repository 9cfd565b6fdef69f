import os

from cdd.core import runtime

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# The networks of the tests are tiny: compiling them would take most of the time.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
runtime.configure()

import jax  # noqa: E402
import pytest  # noqa: E402
import tiny  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def prior(tmp_path_factory):
  """The folder of a tiny random prior."""
  return tiny.prior(tmp_path_factory.mktemp('prior'))
