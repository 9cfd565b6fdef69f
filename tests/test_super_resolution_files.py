"""The full-size config of super-resolution, reduced by flags, on a folder of a dozen images."""

import json

import commands
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from cdd import assets

FLAGS = [
  '--config.data.source.size=32',
  '--config.data.held_out.size=32',
  '--config.data.batch_size=2',
  '--config.data.workers=0',
  '--config.model.dtype=float32',
  '--config.model.remat=False',
  '--config.mesh.fsdp=1',
  '--config.steps=2',
  '--config.method.eps_warmup=1',
  '--config.log.every=1',
  '--config.log.samples_every=2',
  '--config.evaluation.count=2',
  '--config.evaluation.batch_size=2',
  '--config.evaluation.steps=(1,)',
]


def write(folder, count):
  """Crops of the packaged photographs in a folder of their own, without captions."""
  folder.mkdir(parents=True)
  for index, path in enumerate(sorted(assets.PHOTOS.glob('*.jpg'))[:count]):
    Image.open(path).convert('RGB').crop((0, 0, 48 + index, 56)).save(folder / f'{index}.png')


@pytest.fixture(scope='module')
def done(prior, tmp_path_factory):
  """The command in a folder that is laid out as the config says: (the folder, how it ended)."""
  folder = tmp_path_factory.mktemp('files')
  write(folder / 'data/super_resolution/train', 12)
  write(folder / 'data/super_resolution/test', 4)
  command = ['cdd.main', '--config=super_resolution', '--workdir=run', *FLAGS]
  (ended,) = commands.run([[*command, f'--config.prior.path={prior}']], cwd=folder)
  return folder, ended


def test_it_trains_evaluates_and_exports(done):
  folder, ended = done
  assert ended.code == 0, ended.err[-3000:]
  rows = [json.loads(row) for row in (folder / 'run/log.jsonl').read_text().splitlines()]
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert len(losses) == 2 and np.isfinite(losses).all()
  table = {row['method']: row for row in json.loads((folder / 'run/metrics.json').read_text())}
  assert {'ours', 'bicubic', 'autoencoder of the truth'} <= table.keys()
  assert all(np.isfinite(row['lpips']) for row in table.values())
  assert table['bicubic']['psnr'] < 40  # What is compared with the truth is degraded.
  exported = load_file(folder / 'run/export/trained.safetensors')
  assert exported and all(np.isfinite(array).all() for array in exported.values())
  assert (folder / 'run/report.html').exists() and any((folder / 'run/samples').iterdir())


def test_the_config_names_the_degradation_and_the_size_of_its_crops(done):
  written = json.loads((done[0] / 'run/config.json').read_text())
  assert written['data']['task']['degradation'] == dict(name='real_esrgan')
  sizes = (written['data'][name]['size'] for name in ('source', 'held_out'))
  assert [*sizes] == [32, 32]
