"""A run that learns guided steps: how it is trained, what it writes, how it is sampled."""

import jax
import numpy as np
import pytest
import tiny

from cdd import sampling
from cdd.core.errors import UserError
from cdd.models.time import Beside
from cdd.pretrained import priors
from cdd.runs import counting, loop, objective, planning
from cdd.runs.experiment import experiment

TRAINED_FOR = Beside((1, 2, 4), (2.0, 4.0))
PROMPT = 'a red ball on a blue floor'


@pytest.fixture(scope='module')
def config(prior):
  config = tiny.load('depth.py:tiny,method=step_aware,adapter=none', prior)
  config.model.step_channels, config.evaluation = 8, None
  config.method.update(dict(counts=TRAINED_FOR.counts, guidance=TRAINED_FOR.guidance))
  config.data.task = dict(name='text_to_image')
  config.optimizer.update(dict(learning_rate=0.03, warmup=0, decay='constant'))
  return config.lock()


@pytest.fixture(scope='module')
def folder(config, tmp_path_factory):
  """What a run exports."""
  workdir = tmp_path_factory.mktemp('guided')
  loop.run(config, workdir)
  return workdir / 'export'


@pytest.fixture(scope='module')
def model(folder):
  return sampling.load(folder)


def test_what_it_writes_says_what_it_was_trained_for(model, config):
  assert model.networks.beside == TRAINED_FOR
  assert model.sampler == 'consistency'


def test_it_is_sampled_at_the_least_scale_and_at_any_that_it_was_trained_for(model):
  draw = lambda **given: model(PROMPT, steps=2, **given)
  np.testing.assert_array_equal(draw(), draw(guidance=2.0))
  assert np.abs(draw() - draw(guidance=4.0)).max() > 1e-4
  with pytest.raises(UserError, match='guidance is 7.5; in few steps this model takes 2 to 4'):
    draw(guidance=7.5)
  with pytest.raises(UserError, match="negative is 'grey'; this model is given the guidance scale"):
    draw(negative='grey')


def test_without_a_step_it_is_guided_by_two_predictions_at_any_scale(model):
  draw = lambda **given: model(PROMPT, steps=2, sampler='ddim', **given)
  plain = draw()
  np.testing.assert_array_equal(plain, draw(guidance=1.0))
  away = draw(guidance=7.5, negative=PROMPT)  # Away from itself: no guidance.
  np.testing.assert_allclose(away, plain, atol=1e-4)
  assert np.abs(draw(guidance=7.5) - plain).max() > 1e-3


def test_a_prior_that_was_given_something_else_is_refused(folder, config, tmp_path):
  changed = config.copy_and_resolve_references()
  changed.method.guidance, changed.prior.path = (), str(folder)
  with pytest.raises(UserError, match='given its step and a guidance scale with .* it its step in'):
    loop.run(changed, tmp_path / 'run')


def test_training_guides_away_from_the_empty_prompt(config, tmp_path):
  run = experiment(config, tmp_path)
  run.batches.close()
  (batch,) = run.held_out(2, 2)
  everything = {**run.frozen, **run.initial().params}
  c = run.networks.condition(everything, batch)
  empty = priors.reader(run.prior)('')
  absent = {name: np.stack([array] * 2) for name, array in empty.items()}
  expected = run.networks.text(everything, absent)
  parts = objective.Parts(run.networks, everything, {}, {}, c)
  found = objective.negative(parts, empty)
  np.testing.assert_allclose(found.states, expected.states, atol=1e-5)
  # Of a prepared cache: the states themselves.
  states = dict(states=np.asarray(expected.states[0]))
  np.testing.assert_array_equal(objective.negative(parts, states).states, expected.states)


def test_a_plan_counts_the_second_prediction(config):
  def flops(guidance):
    changed = config.copy_and_resolve_references()
    changed.method.guidance = guidance
    changed.data.batch_size = 4
    shapes = planning.prior(changed.prior, None)
    part = planning.training(changed, shapes, tiny.SIZE, jax.devices()[:1])
    return counting.flops(part.function.trace(*part.arguments.values()).jaxpr.jaxpr)

  # Forward and backward of 4 are 12 evaluations, the two half steps of 2 are 4; guidance adds 4.
  assert 1.1 < flops((2.0, 4.0)) / flops(()) < 1.3


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('data.caption_dropout', 0.0, r'guidance is \(2.0, 4.0\), and no caption is left out'),
    ('model.step_channels', 6, 'step_channels is 6; it must be a multiple of 4'),
    ('method', dict(name='finetune'), 'step_channels is 8; it is for a method that names numbers'),
    ('method.guidance', (4.0, 2.0), 'the least and the largest guidance scale'),
    ('method.guidance', (4.0,), 'the least and the largest guidance scale'),
  ],
)
def test_what_cannot_be_learnt_is_refused_in_a_line(field, value, said, config, tmp_path):
  changed = config.copy_and_resolve_references().unlock()
  if field == 'method':
    del changed.method
    changed.method = dict(value, sample_t=dict(name='per_example'))
  else:
    changed.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=said) as error:
    loop.run(changed, tmp_path / 'run')
  assert '\n' not in str(error.value)
