"""Two processes with four devices each make, learn, measure and resume what one device does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from jax.experimental import multihost_utils
from safetensors.numpy import load_file
from test_several_processes import free_port

from cdd.core.registry import bind
from cdd.data import SOURCES
from cdd.runs import loop, prepare
from cdd.training import sharding, writer

OPTIONS = dict(
  step_aware='method=step_aware', adapter='adapter=concat,train=adapter', prepared='method=finetune'
)
# As the pair has them: the axes of the mesh, and the mode of sharding.
MESHES = dict(step_aware=((2, 2, 2), 'tensor'), adapter=((1, 8, 1), 'fsdp'))
COUNT = 16  # Examples that are prepared.


def config(case, prior, folder):
  """The config of a case, on the devices that are there."""
  out = tiny.load(f'depth.py:tiny,{OPTIONS[case]}', prior)
  out.data.batch_size = 8
  out.optimizer.warmup = 0
  if jax.device_count() == 8:
    sizes, mode = MESHES.get(case, ((2, 4, 1), 'fsdp'))
    out.mesh, out.sharding = dict(zip(sharding.AXES, sizes, strict=True)), (('.*', mode),)
  if case == 'step_aware':
    out.accumulate = 2  # Micro-batches of 4.
    out.evaluation.update(dict(count=8, batch_size=8, more=()))
  else:
    out.evaluation = None
  if case == 'prepared':
    out.data.source.length = COUNT
    prepare.run(out, folder / 'shards', count=COUNT, shards=4, batch_size=4)
    multihost_utils.sync_global_devices('All shards are there.')
    out.data.source = dict(name='prepared', path=str(folder / 'shards'))
  return out


def run(case, prior, folder, steps=2):
  """Trains up to a step; what is there is resumed."""
  made = config(case, prior, folder)
  made.steps = steps
  loop.run(made, folder / case)


def pair(address, rank, prior, folder):
  """One of the two processes, which runs all cases."""
  jax.config.update('jax_num_cpu_devices', 4)
  jax.distributed.initialize(address, 2, int(rank))
  sharding.LEAST = 1  # The layers of this model are small.
  for case in OPTIONS:
    run(case, Path(prior), Path(folder), steps=4 if case == 'adapter' else 2)


@pytest.fixture(scope='module')
def folders(prior, tmp_path_factory):
  """What one process and what two have made; the adapter's run is begun by one for both."""
  one, two = (tmp_path_factory.mktemp(name) for name in ('one', 'two'))
  run('adapter', prior, one)
  shutil.copytree(one / 'adapter', two / 'adapter')
  address = f'localhost:{free_port()}'
  processes = [
    subprocess.Popen(
      [sys.executable, __file__, address, str(rank), str(prior), str(two)],
      env=dict(os.environ, PYTHONPATH=f'{tiny.ROOT}:{tiny.ROOT}/tests'),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for rank in range(2)
  ]
  for code, _, errors in [tiny.finish(process) for process in processes]:
    assert code == 0, errors[-3000:]
  for case in OPTIONS:
    run(case, prior, one, steps=4 if case == 'adapter' else 2)
  return one, two


def losses(folder, case):
  rows = writer.read(folder / case / 'log.jsonl')
  return {row['step']: row['loss'] for row in rows if 'loss' in row}


@pytest.mark.parametrize('case', OPTIONS)
def test_two_processes_have_the_losses_of_one(case, folders):
  one, two = (losses(folder, case) for folder in folders)
  print(case, one, two)
  assert list(one) == list(two) == list(range(1, 5 if case == 'adapter' else 3))
  np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-5)
  assert len(set(one.values())) == len(one)


@pytest.mark.parametrize('case', OPTIONS)
def test_two_processes_export_what_one_does(case, folders, prior):
  one, two = (load_file(folder / case / 'export/trained.safetensors') for folder in folders)
  assert one.keys() == two.keys() and (case != 'adapter' or all('conv_in' in name for name in one))
  gaps = {name: np.abs(one[name] - two[name]).max() for name in one}
  print(case, max(gaps.values()))
  assert max(gaps.values()) < 1e-3, gaps


def test_two_processes_measure_what_one_does_and_write_it_once(folders):
  one, two = (json.loads((f / 'step_aware/metrics.json').read_text()) for f in folders)
  assert [row['method'] for row in one] == [row['method'] for row in two]
  for name in ('lpips', 'psnr', 'ssim'):
    ours, theirs = ([row[name] for row in rows] for rows in (two, one))
    print(name, ours, theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
  names = [sorted(path.name for path in (f / 'step_aware').iterdir()) for f in folders]
  assert names[0] == names[1]


def test_two_processes_prepare_the_examples_of_one(folders):
  source = lambda folder: bind(SOURCES, dict(name='prepared', path=str(folder)), 'source')()
  one, two = (source(folder / 'shards') for folder in folders)
  assert len(one) == len(two) == COUNT
  for index in range(COUNT):
    ours, theirs = two[index], one[index]
    assert ours.pop('caption') == theirs.pop('caption') and 'image_latents' in ours
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-3), ours, theirs)


def test_one_process_goes_on_with_the_checkpoint_of_two(folders, prior):
  for folder in folders:
    run('adapter', prior, folder, steps=5)
  one, two = (losses(folder, 'adapter') for folder in folders)
  assert list(one) == list(two) == list(range(1, 6))
  np.testing.assert_allclose(two[5], one[5], rtol=1e-5)


if __name__ == '__main__':
  pair(*sys.argv[1:])
