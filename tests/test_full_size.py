"""Stable Diffusion at its full width: every network beside PyTorch's, and a training step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from full_size import ADAPTERS

from configs.stable_diffusion import FAMILIES

ROOT = Path(__file__).parents[1]
NETWORKS = ('unet', 'vae', 'text_encoder', 'text_encoder_2')
CASES = [(family, name) for family in FAMILIES for name in NETWORKS if name in FAMILIES[family]]
CASES[1:1] = [('sd15', name) for name in ADAPTERS]  # Beside the U-Net that they are added to.

pytestmark = pytest.mark.slow


def process(*arguments, **settings) -> dict:
  """The JSON that tests/full_size.py prints; with all of XLA's optimisations."""
  settings = {**os.environ, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '0', 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, 'tests/full_size.py', *map(str, arguments)]
  done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """(family, component) -> the folder that holds it; one network at a time stays on the disk."""
  folder, held = tmp_path_factory.mktemp('full_size'), {}

  def write(family: str, component: str) -> Path:
    needed = {'unet', component} if component in ADAPTERS else {component}
    for old in [key for key in held if key[0] != family or key[1] not in needed]:
      subprocess.run(['rm', '-r', held.pop(old)], check=True)
    for name in sorted(needed - {name for _, name in held}):
      process('write', family, name, folder)
      held[family, name] = folder / name
    return folder

  return write


@pytest.mark.parametrize(('family', 'component'), CASES)
def test_a_network_equals_the_reference_library_at_full_width(family, component, written, capsys):
  folder = written(family, component)
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
