import numpy as np
import pytest
import tiny

from cdd import sampling
from cdd.pretrained import priors, trained
from cdd.runs import config as configs
from cdd.runs.program import divide


@pytest.fixture(scope='session')
def plain(prior):
  """The tiny prior."""
  return sampling.load(prior)


@pytest.fixture(scope='session')
def run(prior, tmp_path_factory):
  """The folder of a depth run, as an export leaves it."""
  config = tiny.load('depth.py:tiny', prior)
  loaded = priors.load(config.prior, None, ())
  _, added = priors.networks(config.model, loaded)
  params, _ = divide(config, {**loaded.params, **added})
  rng = np.random.default_rng(1)
  params = {path: leaf + 0.02 * rng.normal(size=leaf.shape) for path, leaf in params.items()}
  folder = tmp_path_factory.mktemp('runs') / 'depth'
  trained.save(params, folder / 'export' / trained.NAME)
  configs.write(config, folder / 'export')
  return folder


@pytest.fixture(scope='session')
def depth(run):
  return sampling.load(run)


@pytest.fixture(scope='session')
def condition():
  """A function that draws [b, h, w, 3] in [0, 1], always the same."""

  def draw(count=1, size=(tiny.SIZE, tiny.SIZE)):
    return np.random.default_rng(2).uniform(size=(count, *size, 3)).astype(np.float32)

  return draw
