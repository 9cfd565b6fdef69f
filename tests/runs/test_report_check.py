"""What an evaluation cannot do is said before the training that it would end."""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from cdd.core import cli
from cdd.core.errors import UserError
from cdd.metrics import METRICS
from cdd.runs import report, streams

SETTINGS = dict(count=2, batch_size=2, metrics=('psnr',), mismatched=None, condition_row=None)


def held_out(size, arrays=('image', 'condition')):
  """`Experiment.held_out` of random pictures."""

  def batches(count, batch_size):
    rng = np.random.default_rng(0)
    shape = (count, *size, 3)
    return [{name: rng.uniform(size=shape).astype(np.float32) for name in arrays}]

  return batches


def check(size=(32, 32), arrays=('image', 'condition'), **settings):
  experiment = SimpleNamespace(held_out=held_out(size, arrays))
  report.check_arrays(experiment, ConfigDict(SETTINGS | settings))


@pytest.mark.parametrize('name', METRICS)
def test_a_metric_measures_the_least_images_that_it_says_and_one_pixel_less_is_refused(name):
  metric = METRICS[name]
  sides, images = (metric.least, metric.least + metric.multiple), {}
  check(sides, metrics=(name,), count=metric.count)
  for array in ('images', *metric.reads):
    shape = (metric.count, *sides, 3)
    images[array] = np.random.default_rng(len(images)).uniform(size=shape).astype(np.float32)
  assert np.isfinite(metric.result(metric.update(metric.init(), *images.values())))
  if metric.least > 1:
    with pytest.raises(UserError, match=f'{name!r} needs images of {metric.least} x'):
      check((metric.least, metric.least - 1), metrics=(name,))


@pytest.mark.parametrize(
  ('wrong', 'said'),
  [
    (dict(metrics=('frechet',), count=1), "'frechet' needs 2 examples or more, not 1"),
    (dict(metrics=('depth',), size=(12, 8)), "'depth' needs .* in multiples of 8, not of 12 x 8"),
    (dict(metrics=('psnr', 'kept'), arrays=('image',)), "'kept' reads 'condition', which"),
    (dict(metrics=('lpisp',)), "Unknown metric 'lpisp'; choose one of .*'lpips'"),
    (dict(mismatched='condition', batch_size=1), 'mismatched=condition exchanges within a batch'),
    (dict(mismatched='condition', arrays=('image',)), "'condition', which the examples do not"),
    (dict(condition_row='bicubic', arrays=('image',)), "'bicubic', and the held-out examples have"),
  ],
)
def test_what_the_held_out_examples_cannot_give_is_refused(wrong, said):
  with pytest.raises(UserError, match=said):
    check(**wrong)


def test_the_report_says_beside_its_table_of_how_few_pictures_the_examples_are():
  config = cli.load(cli.find('super_resolution'), 'tiny,data=photos')
  row = dict(method='ours', steps=1, count=128, psnr=20.0)
  said = 'The 128 held-out examples are crops of no more than 2 pictures. What is measured on them'
  assert any(note.startswith(said) for note in report.notes(config, [dict(row, pictures=2)], []))
  every = report.notes(config, [dict(row, pictures=128)], [])
  assert not any('are crops of' in note for note in every)


@pytest.mark.parametrize('count', [6, 12])
def test_a_number_of_held_out_examples_that_does_not_fit_is_refused_before_any_is_drawn(count):
  held = dict(name='scenes', size=16, length=8)
  data = ConfigDict(dict(task=dict(name='text_to_image'), held_out=held))
  config = SimpleNamespace(data=data, evaluation=ConfigDict(dict(count=count, batch_size=4)))
  with pytest.raises(UserError, match=f'Cannot evaluate {count} of 8 held-out examples'):
    streams.held_out(config, lambda text: {})


def test_previews_of_images_too_small_are_refused():
  config = ConfigDict(dict(log=dict(samples_every=5), evaluation=None))
  with pytest.raises(UserError, match="'lpips' needs images of 32 x 32 pixels or more"):
    report.check(SimpleNamespace(held_out=held_out((16, 16))), config)
