"""What makes anew what ships: what is run, and where it is put."""

import json
import re
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks import shipped
from cdd import assets
from cdd.core import cli
from cdd.reports import grid


def row(method, lpips):
  metrics = dict(lpips=lpips, psnr=15.0, ssim=0.5, frechet=100.0, seconds_per_image=0.1, count=8)
  return dict(method=method, steps=4, sampler='ddim', **metrics)


def finish(folder, lpips=0.3, method='ours'):
  """Leaves in a folder what a run leaves there."""
  (folder / 'export').mkdir(parents=True)
  (folder / 'export' / 'trained.safetensors').write_bytes(b'weights')
  (folder / 'config.json').write_text('{}')
  (folder / 'metrics.json').write_text(json.dumps([row(method, lpips), row('condition', 0.6)]))
  grid.save_png(folder / 'pictures' / 'ours.png', np.full((8, 8, 3), 200, np.uint8))


def test_every_run_is_of_a_config_that_ships_and_the_first_seeds_come_first():
  names = list(shipped.runs())
  assert len(names) == 2 * (3 * len(shipped.SEEDS) + 1)
  assert {*shipped.METHODS.values()} <= {*shipped.MEASURED}
  assert [name[-1] for name in names] == sorted(name[-1] for name in names)
  for run in shipped.runs().values():
    name, _, options = run.config.partition(':')
    assert cli.load(cli.CONFIGS / f'{name}.py', options).task == name


def test_each_run_has_a_core_of_its_own_and_those_that_ended_are_not_made_again(
  tmp_path, monkeypatch, capsys
):
  busy, made = set(), []
  there, *missing = [name for name in shipped.runs() if name.startswith('depth')]
  finish(tmp_path / there)

  def run(command, env, **_):
    core = command[command.index('-c') + 1]
    assert core in ('0', '1') and core not in busy and env['OMP_NUM_THREADS'] == '1'
    busy.add(core)
    time.sleep(0.01)
    busy.remove(core)
    made.append(command)
    if 'tiny' in str(command):
      finish(tmp_path / 'depth_tiny_finetune_0')

  monkeypatch.setattr(subprocess, 'run', run)
  monkeypatch.setattr(shipped.os, 'sched_getaffinity', lambda process: {0, 1})
  monkeypatch.setattr('sys.argv', ['shipped', f'--home={tmp_path}', '--cores=0,1', '--only=depth'])
  with pytest.raises(SystemExit) as ending:
    shipped.main()
  said = capsys.readouterr().out
  assert ending.value.code == 1 and len(made) == len(missing) and f'{there}:' not in said
  assert said.count('failed, see') == len(missing) - 1
  assert 'depth_tiny_finetune_0: ended' in said


def test_what_ended_is_put_in_its_place_and_the_rest_is_left_alone(tmp_path, monkeypatch):
  measured, folder = [], tmp_path / 'assets'
  monkeypatch.setattr(assets, 'TRAINED', folder)
  monkeypatch.setattr(shipped, 'DOCS', tmp_path / 'docs')
  monkeypatch.setattr(shipped.undistilled, 'main', lambda *asked: measured.append(asked[:2]))
  for directory in (folder, tmp_path / 'docs'):
    directory.mkdir()
  ours = f'depth_small_{shipped.METHODS["depth"]}'
  for seed, lpips in enumerate((0.3, 0.4)):
    finish(tmp_path / f'{ours}_{seed}', lpips)
  finish(tmp_path / 'depth_tiny_finetune_0', method='finetune')
  shipped.install(tmp_path)
  assert measured == [('depth', 'tiny')] and not [*folder.iterdir()]  # Its rival is missing.
  finish(tmp_path / 'depth_small_finetune_0', 0.5, 'finetune')
  shipped.install(tmp_path)
  assert measured[1:] == [('depth', 'tiny'), ('depth', 'small')]
  assert sorted(path.name for path in folder.iterdir()) == ['depth.json', 'depth.safetensors']
  table = (tmp_path / 'docs' / 'depth_seeds.txt').read_text()
  assert (
    '| ours | 4 | ddim | 0.350 ± 0.071 |' in table and '| finetune | 4 | ddim | 0.500 |' in table
  )
  assert 'conditional' not in table
  rows = json.loads((tmp_path / 'docs' / 'depth.json').read_text())
  assert [(row['method'], row['lpips']) for row in rows] == [
    ('ours', 0.3),
    ('condition', 0.6),
    ('finetune', 0.5),
  ]
  with Image.open(tmp_path / 'docs' / 'depth.webp') as picture:
    assert picture.size == (8, 8)
  assert not list((tmp_path / 'docs').glob('super_resolution*'))


@pytest.mark.parametrize('task', shipped.METHODS)
def test_without_runs_there_is_no_table(tmp_path, task):
  assert shipped.table(tmp_path, task) == ''


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--only=other', "no run begins with 'other'; there are depth_small_step_aware_0, "),
    ('--cores=a', 'argument --cores: invalid cores value'),
    ('--cores=0,4000', '0,4000 names cores that are not of \\['),
  ],
)
def test_what_cannot_be_is_one_line(tmp_path, monkeypatch, capsys, flag, said):
  monkeypatch.setattr('sys.argv', ['shipped', f'--home={tmp_path}', flag])
  with pytest.raises(SystemExit):
    shipped.main()
  assert re.search(said, capsys.readouterr().err)


def test_the_core_is_one_that_the_process_may_use(tmp_path, monkeypatch):
  taken = []
  monkeypatch.setattr(shipped.os, 'sched_getaffinity', lambda process: {3, 5})
  monkeypatch.setattr(shipped, 'make_all', lambda home, names, cores: taken.extend(cores))
  monkeypatch.setattr('sys.argv', ['shipped', f'--home={tmp_path}', '--only=depth_tiny'])
  with pytest.raises(SystemExit):
    shipped.main()
  assert taken == [3]
