"""Whole runs of `python -m cdd.main`: what they write, and that breaking them changes nothing."""

import json
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from PIL import Image
from safetensors.numpy import load_file

STEPS = 80


def arguments(prior, workdir, *more, sampled='(1,)'):
  """A run of seconds; `evaluation` and `log` may differ between a run and its resumption."""
  return [
    '--config=depth:tiny',
    f'--workdir={workdir}',
    f'--config.prior.path={prior}',
    f'--config.steps={STEPS}',
    '--config.data.batch_size=2',
    f'--config.data.source.size={tiny.SIZE}',
    f'--config.data.held_out.size={tiny.SIZE}',
    '--config.evaluation.count=4',
    '--config.evaluation.batch_size=4',
    f'--config.evaluation.steps={sampled}',
    '--config.evaluation.shipped=()',
    '--config.log.every=5',
    '--config.log.samples_every=0',
    '--config.log.checkpoint_every=10',
    *more,
  ]


@pytest.fixture(scope='module')
def unbroken(prior, tmp_path_factory):
  """The folder of a run from start to end, and what it said."""
  workdir = tmp_path_factory.mktemp('unbroken') / 'run'
  more = f'--config.log.samples_every={STEPS}'
  run = tiny.command(*arguments(prior, workdir, more, sampled='(1,2)'))
  code, out, errors = tiny.finish(run)
  assert code == 0, errors[-2000:]
  return workdir, out


def rows(workdir):
  """The log; a line that is being written is left out."""
  path = workdir / 'log.jsonl'
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith('\n')]


def signalled(run, workdir, number, after):
  """Waits until `after` steps are logged and a checkpoint is there, then sends a signal."""
  saved = lambda: [p for p in (workdir / 'checkpoints').glob('*') if p.name.isdigit()]
  deadline = time.monotonic() + 900
  while not (saved() and rows(workdir) and rows(workdir)[-1]['step'] >= after):
    assert run.poll() is None and time.monotonic() < deadline, run.communicate()
    time.sleep(0.01)
  run.send_signal(number)
  return tiny.finish(run)


def equal(one, other):
  ours, theirs = (load_file(folder / 'export/trained.safetensors') for folder in (one, other))
  return ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)


def same_state(one, other):
  """Whether the last checkpoints agree bitwise: parameters, averages, moments and step."""
  read = lambda folder: ocp.StandardCheckpointer().restore(folder / f'checkpoints/{STEPS}/state')
  ours, theirs = jax.tree.leaves(read(one)), jax.tree.leaves(read(other))
  return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def test_a_run_measures_itself_beside_the_trivial_row(unbroken):
  workdir, out = unbroken
  table = json.loads((workdir / 'metrics.json').read_text())
  assert [(row['method'], row['steps'], row['sampler']) for row in table] == [
    ('ours', 1, 'consistency'),
    ('ours', 2, 'consistency'),
    ('ours, condition of another', 1, 'consistency'),
    ('condition', None, None),
    ('autoencoder of the truth', None, None),
  ]
  for row in table:
    assert row['count'] == 4 and row['seconds_per_image'] > 0
    for name in ('lpips', 'psnr', 'ssim', 'frechet'):
      assert np.isfinite(row[name]), (name, row)
  assert out.count('LPIPS') == len(table)


def test_a_run_writes_a_page_that_needs_no_other_file(unbroken):
  page = (unbroken[0] / 'report.html').read_text()
  assert page.startswith('<!doctype html>') and 'depth tiny' in page
  assert page.count('src="data:image/webp;base64,') == 1 and '<svg' in page
  assert 'src="http' not in page and 'href="http' not in page


def test_a_run_leaves_its_logs_samples_and_parameters(unbroken):
  workdir, _ = unbroken
  log = rows(workdir)
  losses = [row for row in log if 'loss' in row]
  assert [row['step'] for row in losses] == list(range(5, STEPS + 1, 5))
  assert losses[0].keys() >= {'loss', 'consistency', 'guidance', 'grad_norm'}
  speed = {'steps_per_second', 'images_per_second_per_chip', 'data_wait', 'goodput'}
  assert losses[-1].keys() >= speed | {'wall_seconds', 'host_memory_gib'}
  assert 0 < losses[-1]['goodput'] < 1 and 'mfu' not in losses[-1]  # Of a CPU it is unknown.
  assert [row['step'] for row in log if 'score' in row] == [STEPS]
  assert list((workdir / 'tensorboard').glob('events.*'))
  assert np.asarray(Image.open(workdir / f'samples/{STEPS:07d}.png')).std() > 0
  assert np.asarray(Image.open(workdir / 'pictures/ours.png')).std() > 0
  tensors = load_file(workdir / 'export/trained.safetensors')
  assert any(key.startswith('adapter.') for key in tensors)
  assert any(key.startswith('unet.') for key in tensors)
  assert not any(key.startswith('vae.') for key in tensors)
  assert all(tensor.dtype == np.float16 for tensor in tensors.values())
  assert json.loads((workdir / 'export/config.json').read_text())['steps'] == STEPS


def test_a_run_terminated_and_then_killed_ends_bitwise_as_an_unbroken_one(
  unbroken, prior, tmp_path
):
  workdir = tmp_path / 'run'
  command = arguments(prior, workdir)
  code, out, errors = signalled(tiny.command(*command), workdir, signal.SIGTERM, after=10)
  assert code == 75 and 'Traceback' not in errors
  (said,) = [line for line in out.splitlines() if 'the same command resumes there' in line]
  step = int(said.split('Stopped after step ')[1].split(';')[0])
  assert 10 <= step < STEPS and (workdir / f'checkpoints/{step}').is_dir()
  assert not (workdir / 'export').exists()
  code, _, _ = signalled(tiny.command(*command), workdir, signal.SIGKILL, after=step + 10)
  assert code == -signal.SIGKILL and step < rows(workdir)[-1]['step'] < STEPS
  code, _, errors = tiny.finish(tiny.command(*command))
  assert code == 0, errors[-2000:]
  assert same_state(workdir, unbroken[0]) and equal(workdir, unbroken[0])
  # The log has every step once, also those that the killed run had made after its checkpoint.
  assert [row['step'] for row in rows(workdir)] == list(range(5, STEPS + 1, 5))
  losses = lambda folder: [row['loss'] for row in rows(folder) if 'loss' in row]
  assert losses(workdir) == losses(unbroken[0])


def test_a_finished_run_is_measured_anew_without_training(unbroken, prior):
  workdir, _ = unbroken
  before = (workdir / 'log.jsonl').read_bytes()
  more = ['--config.evaluation.count=8']
  code, _, errors = tiny.finish(tiny.command(*arguments(prior, workdir, *more)))
  assert code == 0, errors[-2000:]
  assert (workdir / 'log.jsonl').read_bytes() == before
  assert {row['count'] for row in json.loads((workdir / 'metrics.json').read_text())} == {8}
