"""Two processes with four devices each run a config to the end of its report."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from cdd.runs import loop
from cdd.training import writer

RUN = """
import sys
from pathlib import Path

import jax

jax.config.update('jax_num_cpu_devices', 4)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
assert jax.device_count() == 8 and jax.process_count() == 2

import tiny
from cdd import sampling
from cdd.runs import evaluations, loop

config = tiny.load('depth.py:tiny', Path(sys.argv[3]))
config.data.batch_size = 8
config.mesh.fsdp = 8  # Parameters are cut over both processes.
config.log.samples_every = 2
config.evaluation.update(dict(count=8, batch_size=8))  # Each device samples one example.
workdir = Path(sys.argv[4])
loop.run(config, workdir)
pipeline, asked = sampling.load(workdir, step=2), evaluations.Asked()
again = dict(label='again', updates=2, folder=workdir / 'again')
evaluations.evaluate(pipeline, config, config, asked, **again)
print('process', jax.process_index(), 'ended')
"""


def free_port() -> int:
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    return listener.getsockname()[1]


@pytest.fixture(scope='module')
def run(prior, tmp_path_factory):
  """(workdir, what each process printed)."""
  workdir, address = tmp_path_factory.mktemp('two') / 'run', f'localhost:{free_port()}'
  start = lambda rank: subprocess.Popen(
    [sys.executable, '-c', RUN, address, str(rank), str(prior), str(workdir)],
    cwd=tiny.ROOT / 'tests',
    env=dict(os.environ, PYTHONPATH=str(tiny.ROOT)),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  processes = [start(rank) for rank in range(2)]
  finished = [tiny.finish(process) for process in processes]
  for code, _, errors in finished:
    assert code == 0, errors[-3000:]
  return workdir, [out for _, out, _ in finished]


def test_both_processes_end_and_process_0_alone_reports(run):
  workdir, printed = run
  assert all(f'process {rank} ended' in printed[rank] for rank in range(2))
  assert 'LPIPS' in printed[0] and 'LPIPS' not in printed[1]
  assert (workdir / 'report.html').exists()
  rows = json.loads((workdir / 'metrics.json').read_text())
  assert rows[0]['method'] == 'ours' and np.isfinite(rows[0]['lpips'])
  assert len(list((workdir / 'samples').iterdir())) == 1


def test_a_model_is_evaluated_by_all_devices_with_the_figures_of_the_report(run):
  workdir, printed = run
  report = json.loads((workdir / 'metrics.json').read_text())
  again = json.loads((workdir / 'again' / 'evaluation.json').read_text())['rows']
  for name in ('lpips', 'psnr', 'ssim'):
    ours, theirs = ([row[name] for row in rows] for rows in (again, report))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
  assert 'again' in printed[0] and 'again' not in printed[1]


def test_the_export_holds_every_parameter_whole(run):
  workdir, _ = run
  tensors = load_file(workdir / 'export' / 'trained.safetensors')
  assert tensors and all(np.isfinite(array).all() for array in tensors.values())


def test_one_process_has_the_losses_of_two(run, prior, tmp_path):
  config = tiny.load('depth.py:tiny', prior)
  config.data.batch_size, config.evaluation = 8, None
  loop.run(config, tmp_path / 'run')
  rows = lambda workdir: writer.read(workdir / 'log.jsonl')
  losses = lambda workdir: [row['loss'] for row in rows(workdir) if 'loss' in row]
  print(losses(run[0]), losses(tmp_path / 'run'))
  np.testing.assert_allclose(losses(run[0]), losses(tmp_path / 'run'), rtol=1e-4)
