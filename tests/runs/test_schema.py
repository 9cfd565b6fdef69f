"""What a config's fields may be: mistakes are one line that names field, value and choices."""

import os

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from cdd.core.errors import UserError
from cdd.runs import config as configs
from cdd.runs import experiment, schema

VALUES = (-1, 0, 2.5, float('nan'), 1e30, '', 'x', None, (), ('a',), dict(a=1), True, 10**12)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('steps', 0, 'must be a whole number, 1 or more'),
    ('steps', -5, 'must be a whole number, 1 or more'),
    ('seed', 2**31, 'must be a whole number, -2147483648..2147483647'),
    ('accumulate', 3, 'does not divide config.data.batch_size'),
    ('data.batch_size', 0, 'must be a whole number, 1 or more'),
    ('data.caption_dropout', 1.5, 'must be a number, 0..1'),
    ('optimizer.learning_rate', float('nan'), 'must be a number, 0 or more'),
    ('model.dtype', 'float99', "must be 'float32', 'bfloat16' or 'float16'"),
    ('model.remat', 'yes', 'must be True or False'),
    ('evaluation.steps', (1, 0), 'must be a tuple of whole numbers'),
    ('trainable', 'unet', 'must be a tuple of pairs'),
    ('data', None, r'must be dict\(...\)'),
    ('data.source', 'scenes', r'must be dict\(name=..., ...\)'),
    ('evaluation', 3, r'must be dict\(...\) or None'),
  ],
)
def test_a_field_that_is_wrong_is_named(field, value, message, prior):
  config = changed(tiny.load('depth.py:tiny', prior), field, value)
  with pytest.raises(UserError, match=f'config.{field}.*{message}'):
    schema.check(configs.as_json(config))


@pytest.mark.parametrize(
  'field', [field for field in schema.FIELDS if field not in schema.OMITTABLE]
)
def test_a_field_that_is_missing_is_named(field, prior):
  config = tiny.load('depth.py:tiny', prior)
  section, _, name = field.rpartition('.')
  within = config
  for part in section.split('.') if section else ():
    within = within[part]
  del within[name]
  with pytest.raises(UserError, match=f'The config has no {field}; it must be'):
    schema.check(configs.as_json(config))


def test_every_config_passes(prior):
  for name in ('depth.py:full', 'super_resolution.py:small,method=paper', 'instruct_edit.py:full'):
    schema.check(configs.as_json(tiny.load(name, prior)))


def fields(config, prefix=''):
  for name, value in config.items():
    yield prefix + name
    if isinstance(value, ConfigDict):
      yield from fields(value, f'{prefix}{name}.')


def changed(config, field, value):
  """The config with another value of a field, whatever its type."""
  *sections, name = field.split('.')
  within = config
  for section in sections:
    within = within[section]
  with within.ignore_type():
    within[name] = value
  return config


def test_random_changes_make_a_run_or_one_line(prior, tmp_path):
  rng = np.random.default_rng(int(os.environ.get('CDD_FUZZ_SEED', 0)))
  names = [*fields(tiny.load('depth.py:tiny', prior))]
  made = 0
  for _ in range(int(os.environ.get('CDD_FUZZ', 40))):
    field, value = rng.choice(names), VALUES[rng.integers(len(VALUES))]
    config = changed(tiny.load('depth.py:tiny', prior), str(field), value)
    try:
      schema.check(configs.as_json(config))
      run = experiment.experiment(config, tmp_path / 'run')
      jax.eval_shape(run.initial)
      next(run.batches)
      run.batches.close()
      made += 1
    except UserError as error:
      assert '\n' not in str(error), (field, value)
    except Exception as error:
      raise AssertionError(f'{field} = {value!r} gives {error!r}') from error
  assert made
