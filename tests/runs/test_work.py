"""The work of an update, from which MFU is told: that of the model, not what is computed anew."""

import jax
import pytest
import tiny

from cdd.runs import counting
from cdd.runs.experiment import experiment
from cdd.training import sharding


@pytest.fixture(scope='module')
def bound(prior, tmp_path_factory):
  """(experiment, batch) with and without remat."""
  made = {}
  for remat in (False, True):
    config = tiny.load('depth.py:tiny,method=finetune', prior)
    config.evaluation, config.model.remat = None, remat
    one = experiment(config, tmp_path_factory.mktemp('work'))
    made[remat] = one, sharding.put_batch(next(one.batches), one.mesh)
    one.batches.close()
  return made


def test_remat_adds_no_work_of_the_model(bound):
  work = {remat: one.work(one.abstract, batch) for remat, (one, batch) in bound.items()}
  done = {
    remat: counting.flops(jax.make_jaxpr(one.step)(one.abstract, batch).jaxpr)
    for remat, (one, batch) in bound.items()
  }
  assert done[True] > 1.1 * done[False]  # What the devices do is more.
  assert work[True] == work[False] == pytest.approx(done[False])
