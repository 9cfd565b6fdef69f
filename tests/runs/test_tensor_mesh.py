"""A run whose layers are cut over devices learns what one learns whose batch alone is."""

import json
import os
import subprocess
import sys

import numpy as np
import tiny

RUN = """
import json
import sys
from pathlib import Path

import jax

jax.config.update('jax_num_cpu_devices', 8)

import tiny
from cdd.runs.experiment import experiment
from cdd.training import sharding


def losses(mesh, rules):
  config = tiny.load('depth.py:tiny', Path(sys.argv[1]))
  config.data.batch_size, config.data.cache = 8, 0
  config.mesh, config.sharding = mesh, rules
  run = experiment(config, Path(sys.argv[2]) / str(mesh['tensor']))
  state, found = run.initial(), []
  for _ in range(3):
    state, metrics = run.step(state, sharding.put_batch(next(run.batches), run.mesh))
    found.append(float(metrics['loss']))
  run.batches.close()
  everything = {**run.frozen, **state.params}
  cut = {path: str(leaf.sharding.spec) for path, leaf in everything.items()}
  return found, sum('tensor' in spec for spec in cut.values())


sharding.LEAST = 1  # The layers of this model are small.
alone = losses(dict(data=8, fsdp=1, tensor=1), (('.*', 'fsdp'),))
cut = losses(dict(data=2, fsdp=2, tensor=2), (('.*', 'tensor'),))
print(json.dumps([alone, cut]))
"""


def test_a_run_with_a_tensor_axis_has_the_losses_of_one_without(prior, tmp_path):
  (tmp_path / 'run.py').write_text(RUN)
  root = str(tiny.ROOT)
  path = os.pathsep.join([root, f'{root}/tests'])
  command = [sys.executable, str(tmp_path / 'run.py'), str(prior), str(tmp_path)]
  settings = dict(os.environ, PYTHONPATH=path, JAX_PLATFORMS='cpu')
  done = subprocess.run(command, env=settings, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]
  (alone, none), (cut, some) = json.loads(done.stdout.splitlines()[-1])
  assert none == 0 and some > 10
  np.testing.assert_allclose(cut, alone, rtol=2e-4)
  assert len(set(alone)) == 3
