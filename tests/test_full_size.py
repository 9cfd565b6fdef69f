"""Stable Diffusion at its full width: every network beside PyTorch's, and a training step."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from full_size import ADAPTERS
from safetensors.numpy import load_file

from cdd import assets
from configs.stable_diffusion import FAMILIES

ROOT = Path(__file__).parents[1]
NETWORKS = ('unet', 'vae', 'text_encoder', 'text_encoder_2')
CASES = [(family, name) for family in FAMILIES for name in NETWORKS if name in FAMILIES[family]]
CASES[1:1] = [('sd15', name) for name in ADAPTERS]  # Beside the U-Net that they are added to.

pytestmark = pytest.mark.slow


# The suite's own processes leave XLA's optimisations out.
OPTIMISED = {**os.environ, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '0', 'PYTHONPATH': str(ROOT)}
OPTIMISED['XLA_FLAGS'] = ''


def process(*arguments) -> dict:
  """What tests/full_size.py prints."""
  command = [sys.executable, 'tests/full_size.py', *map(str, arguments)]
  done = subprocess.run(command, cwd=ROOT, env=OPTIMISED, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """(family, component, ...) -> the folder that holds them; what is not asked for is deleted."""
  folder = tmp_path_factory.mktemp('full_size')

  def write(family: str, *components: str) -> Path:
    place = folder / family
    for old in [path for path in folder.glob('*/*') if path.is_dir()]:
      if old.parent != place or old.name not in components:
        shutil.rmtree(old)
    for name in components:
      if not (place / name).exists():
        process('write', family, name, place)
    return place

  yield write
  shutil.rmtree(folder)


@pytest.mark.parametrize(('family', 'component'), CASES)
def test_a_network_equals_the_reference_library_at_full_width(family, component, written, capsys):
  unet = ('unet',) if component in ADAPTERS else ()
  folder = written(family, *unet, component)
  seen = {side: process(side, family, component, folder) for side in ('theirs', 'ours')}
  reference, result = (np.load(folder / f'{side}_{component}.npz') for side in seen)
  assert set(result.files) == set(reference.files)
  gaps = {
    name: float(np.abs(result[name] - reference[name]).max() / np.abs(reference[name]).max())
    for name in reference.files
  }
  with capsys.disabled():
    print(f'\n{family} {component}: differs by', ', '.join(f'{k} {v:.1e}' for k, v in gaps.items()))
    for side, figures in seen.items():
      parts = (f'{k} {v["seconds"]} s ({v["peak_gib"]} GiB)' for k, v in figures.items())
      print(f'  {side}: {", ".join(parts)}')
  assert max(gaps.values()) < 1e-4


TRAINING = """
from configs import depth

def get_config():
  config = depth.get_config('tiny')
  config.prior.path = {path!r}
  config.model.adapter = dict(name={adapter!r})
  config.trainable = (('adapter[.].*', 'train'), ('.*', 'freeze'))
  config.data.batch_size = 1
  config.data.source.size = config.data.held_out.size = 256
  config.optimizer = dict(name='adamw', learning_rate=1e-3)
  config.target.decay = 0.0  # So that what is exported is what was trained.
  config.log = dict(every=1, samples_every=0, checkpoint_every=3, keep=1)
  config.steps = 3
  config.evaluation = None
  return config
"""


def changes(file: Path, unet: Path, adapter: str) -> tuple[int, int, int]:
  """Of a trained file: its parameters, its copies of the U-Net's tensors, and those that moved."""
  trained, unet = load_file(file), load_file(unet)
  assert all(key.startswith('adapter.') for key in trained)
  start = 'adapter.encoder.' if adapter == 'mu_mix' else 'adapter.'
  twins = [key for key in unet if start + key in trained]
  moved = [key for key in twins if np.any(trained[start + key] != unet[key].astype(np.float16))]
  return sum(leaf.size for leaf in trained.values()), len(twins), len(moved)


@pytest.mark.parametrize('adapter', ['mu_mix', 'controlnet'])
def test_an_adapter_of_sd15_trains_on_a_cpu_and_nothing_else_does(
  adapter, written, tmp_path, capsys
):
  folder = written('sd15', 'unet', 'vae', 'text_encoder')
  shutil.copytree(assets.PRIOR / 'tokenizer', folder / 'tokenizer')
  (folder / 'scheduler').mkdir()
  scheduler = json.dumps(FAMILIES['sd15']['scheduler'])
  (folder / 'scheduler/scheduler_config.json').write_text(scheduler)
  (tmp_path / 'training.py').write_text(TRAINING.format(path=str(folder), adapter=adapter))
  command = [sys.executable, '-m', 'cdd.main', f'--config={tmp_path}/training.py']
  command += [f'--workdir={tmp_path}/run']
  start = time.perf_counter()
  # glibc's own malloc: at this size memory is dearer than page faults (cdd.core.runtime).
  environment = {**OPTIMISED, 'CDD_XLA_FLAGS': 'off'}
  child = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
  error = child.stderr.read()
  _, status, usage = os.wait4(child.pid, 0)
  seconds, peak = time.perf_counter() - start, usage.ru_maxrss / 2**20
  assert status == 0, error[-2000:]
  rows = [json.loads(row) for row in (tmp_path / 'run/log.jsonl').read_text().splitlines()]
  weights = folder / 'unet/diffusion_pytorch_model.safetensors'
  count, twins, moved = changes(tmp_path / 'run/export/trained.safetensors', weights, adapter)
  shutil.rmtree(tmp_path / 'run')
  with capsys.disabled():
    print(f'\nsd15 {adapter}, 256 px, batch 1: {count:,} parameters trained, {len(rows)} steps')
    print(f'  {seconds:.0f} s in all, {peak:.1f} GiB at most; {moved} of {twins} copies moved')
    for row in rows:
      print('  ' + ', '.join(f'{key} {value:.4g}' for key, value in row.items()))
  assert all(np.isfinite(row['loss']) for row in rows)
  assert moved > 0.9 * twins and twins > 200
  assert peak < 16  # GiB, most of it the last checkpoint's: it copies the state once more.
