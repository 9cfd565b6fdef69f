"""`cdd.evaluate`: the figures of a run's report, other ways to draw, and what does not fit."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from cdd import evaluate as command
from cdd import sampling
from cdd.core.errors import UserError
from cdd.reports import examples
from cdd.runs import evaluations, examined, loop
from cdd.sampling import Settings

MEASURED = ('lpips', 'psnr', 'ssim')


@pytest.fixture(scope='module')
def config(prior):
  config = tiny.load('depth.py:tiny', prior)
  config.evaluation.metrics = MEASURED
  config.evaluation.update(dict(count=4, batch_size=2, steps=(1, 2)))
  return config


@pytest.fixture(scope='module')
def run(config, tmp_path_factory):
  """The folder of a run that has ended."""
  workdir = tmp_path_factory.mktemp('evaluated') / 'run'
  loop.run(config, workdir)
  return workdir


def evaluated(model, config, folder, own=None, step=None, **asked):
  """The rows of a model on the held-out examples of a config."""
  pipeline = sampling.load(model, step=step)
  asked = evaluations.Asked(**asked)
  settings = dict(label='toy', updates=2, folder=folder)
  return evaluations.evaluate(pipeline, config, own or config, asked, **settings)


def of_steps(rows, method):
  return {row['steps']: row for row in rows if row['method'] == method}


def test_the_newest_checkpoint_of_a_run_has_the_figures_of_its_report(run, config, tmp_path):
  assert evaluations.newest(str(run)) == 2 and evaluations.newest('packaged') is None
  rows = evaluated(run, config, tmp_path, step=2)
  report = json.loads((run / 'metrics.json').read_text())
  assert [row['steps'] for row in rows] == [row['steps'] for row in report] == [1, 2, 1, None, None]
  for ours, theirs in zip(rows, report, strict=True):
    assert ours['count'] == theirs['count'] == 4 and ours['sampler'] == theirs['sampler']
    assert [ours[name] for name in MEASURED] == pytest.approx(
      [theirs[name] for name in MEASURED], rel=1e-5
    )
  written = json.loads((tmp_path / 'evaluation.json').read_text())
  assert written['rows'] == rows and written['trained']['steps'] == 2
  assert np.asarray(Image.open(tmp_path / 'pictures/samples.png')).std() > 0
  # What a page shows again is what the report showed, in 8 bits.
  shown, before = examples.read(tmp_path / 'pictures'), examples.read(run / 'pictures')
  assert shown.keys() == before.keys() == {'truth', 'condition', 'steps_1', 'steps_2'}
  assert all(np.abs(shown[name] - before[name]).max() <= 1 / 255 + 1e-6 for name in shown)


def test_what_is_asked_for_changes_what_is_drawn_and_nothing_else(run, config, tmp_path):
  few = dict(steps=(1,), count=2)
  first = evaluated(run, config, tmp_path, **few)
  plain = of_steps(first, 'toy')
  assert plain.keys() == {1} and plain[1]['count'] == 2
  others = dict(seed=dict(seed=1), guidance=dict(how=Settings(guidance=3.0)))
  others['strength'] = dict(how=Settings(adapter_strength=0.0))
  for name, asked in others.items():
    rows = evaluated(run, config, tmp_path, **few, **asked)
    assert of_steps(rows, 'toy')[1]['lpips'] != plain[1]['lpips'], name
    same = [of_steps(found, 'autoencoder of the truth')[None]['psnr'] for found in (rows, first)]
    assert same[0] == same[1], name
  rows = evaluated(run, config, tmp_path, **few, how=Settings(sampler='ddim'))
  assert of_steps(rows, 'toy')[1]['sampler'] == 'ddim'


def test_a_folder_of_diffusers_is_measured_on_examples_of_its_task(prior, config, tmp_path):
  config = config.copy_and_resolve_references()
  config.data.task = dict(name='text_to_image')
  config.evaluation = None
  asked = evaluations.Asked(steps=(2,), count=2, batch_size=2)
  pipeline = sampling.load(prior)
  settings = dict(label='prior', updates=None, folder=tmp_path)
  rows = evaluations.evaluate(pipeline, config, None, asked, **settings)
  assert [(row['method'], row['steps'], row['sampler']) for row in rows] == [
    ('prior', 2, 'ddim'),
    ('autoencoder of the truth', None, None),
  ]


def test_models_and_examples_that_do_not_go_together_are_refused(run, prior, config, tmp_path):
  with pytest.raises(
    UserError, match='toy reads no condition, and the examples of depth_tiny have'
  ):
    pipeline = sampling.load(prior)
    evaluations.bind(pipeline, config, None, evaluations.Asked(), 'toy')
  other = config.copy_and_resolve_references()
  other.data.task = dict(name='text_to_image')
  with pytest.raises(
    UserError, match="trained for the task 'depth', and depth_tiny is of 'text_to"
  ):
    evaluated(run, other, tmp_path, own=config)
  with pytest.raises(UserError, match='Cannot evaluate 5000 of 1024 held-out examples'):
    evaluated(run, config, tmp_path, count=5000, batch_size=2)
  with pytest.raises(UserError, match='toy reads .condition., which the examples'):
    evaluated(run, other, tmp_path, own=other)


def test_ones_own_files_take_the_place_of_packaged_examples(tmp_path):
  folder = tmp_path / 'mine'
  for part in ('train', 'test'):
    (folder / part).mkdir(parents=True)
    for name in ('a.png', 'a.depth.png'):
      Image.new('L' if 'depth' in name else 'RGB', (48, 48), 100).save(folder / part / name)
  config = tiny.load('depth.py:tiny', tmp_path)
  held_out = examined.on_own_files(config, str(folder)).data.held_out
  assert held_out.name == 'image_folder' and held_out.path == str(folder / 'test')
  assert held_out.size == tiny.SIZE
  # Scenes have distances; the maps of one's own files are taken for inverse depth.
  assert config.data.task.depth_kind == 'inverse' and 'depth' not in config.evaluation.metrics
  config.task = 'mine'
  with pytest.raises(UserError, match=r"--data is for the tasks \['canny', 'depth'"):
    examined.on_own_files(config, str(folder))


@pytest.mark.parametrize('wrong', [['a'], ['1', '0'], ['2.5'], []])
def test_steps_that_are_none_are_named(wrong):
  with pytest.raises(UserError, match='should be whole numbers, 1 or more'):
    command.whole_numbers(wrong)
  assert command.whole_numbers(['1', '4']) == (1, 4) and command.whole_numbers(None) is None
