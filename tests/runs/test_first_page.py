"""Before a run trains, a page shows what ships beside the undistilled model."""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from cdd.core.errors import UserError
from cdd.models import assemble, time
from cdd.models.unet import UNetConfig
from cdd.reports import pictures, stored
from cdd.runs import first_page
from cdd.runs import shipped as beside

RNG = np.random.default_rng(0)
ENTRY = dict(label='ours (shipped)', weights='w', sampler='consistency', steps=(1, 2, 4, 8))
BATCH = {name: RNG.uniform(size=(9, 8, 8, 3)).astype(np.float32) for name in ('image', 'condition')}


def config(**prior):
  shipped = (dict(label='undistilled', results='r'), ENTRY)
  evaluation = dict(count=9, batch_size=9, shipped=shipped)
  return ConfigDict(dict(name='a_run', prior=dict(path='packaged') | prior, evaluation=evaluation))


@pytest.fixture
def bound(monkeypatch):
  """An experiment whose samples are dark, and what is asked of it."""
  calls = []

  def sample(params, batch, number, *, sampler, steps):
    calls.append((params, number, sampler, steps))
    return batch['image'] / 2

  shown = {steps: BATCH['image'][:8] for steps in (1, 4, 50)}
  rows = [dict(steps=1, sampler='ddim', count=9)]
  result = stored.Stored(rows, shown, stored.statistics(BATCH), 600, {})
  monkeypatch.setattr(beside.stored, 'read', lambda path: result)
  monkeypatch.setattr(beside, 'weights', lambda entry, shapes: ('shipped', 600))
  networks, abstract = SimpleNamespace(beside=time.NOTHING), SimpleNamespace(params=None)
  held_out = lambda count, size: [BATCH]
  made = SimpleNamespace(networks=networks, abstract=abstract, held_out=held_out, sample=sample)
  return SimpleNamespace(experiment=made, calls=calls)


def test_the_first_page_shows_few_steps_of_what_ships_beside_many_of_the_undistilled(
  bound, tmp_path, capsys
):
  first_page.write(bound.experiment, config(), tmp_path)
  assert bound.calls == [('shipped', 0, 'consistency', steps) for steps in pictures.FEW]
  text = (tmp_path / 'report.html').read_text()
  assert 'ours (shipped) after 600 updates, beside undistilled (600 updates). This run' in text
  assert 'ours (shipped) at 4 steps, undistilled (600 updates) at 1 step' in text
  written = {path.name for path in (tmp_path / 'pictures').iterdir()}
  assert written == {'ours_shipped_side_by_side.png'}
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith(f'See {tmp_path / "report.html"}: ')


@pytest.mark.parametrize('process', [0, 1])
def test_every_process_samples_and_process_0_alone_writes(process, bound, tmp_path, monkeypatch):
  monkeypatch.setattr(first_page.jax, 'process_index', lambda: process)
  first_page.write(bound.experiment, config(), tmp_path)
  assert len(bound.calls) == 3 and bool([*tmp_path.iterdir()]) == (process == 0)


def test_without_results_of_its_examples_what_ships_is_shown_alone(bound, tmp_path, monkeypatch):
  monkeypatch.setattr(beside.stored, 'same_examples', lambda results, batch: False)
  first_page.write(bound.experiment, config(), tmp_path)
  text = (tmp_path / 'report.html').read_text()
  assert 'Columns: condition, ours (shipped) at 1 step, ' in text and 'undistilled' not in text


def test_where_nothing_ships_there_is_no_first_page(bound, tmp_path):
  first_page.write(bound.experiment, config(path='elsewhere'), tmp_path)
  none = config()
  none.evaluation = None
  first_page.write(bound.experiment, none, tmp_path)
  assert not bound.calls and not [*tmp_path.iterdir()]


def test_samples_that_are_not_finite_are_refused(bound, tmp_path):
  bound.experiment.sample = lambda params, batch, number, **how: np.nan * batch['image']
  with pytest.raises(UserError, match='held-out batch 0 are not finite'):
    first_page.write(bound.experiment, config(), tmp_path)
  assert not [*tmp_path.iterdir()]


def test_a_network_that_is_given_its_step_ignores_it_with_the_weights_that_ship(monkeypatch):
  given = {}

  def load(path, shapes):
    given.update(shapes)
    return dict(a=np.ones(2))

  shape = SimpleNamespace(shape=(4, 3))
  unet = UNetConfig(block_out_channels=(3,))
  assert [*assemble.given_step(unet, {}, 4)[2]] == [beside.STEP]
  monkeypatch.setattr(beside.trained, 'load', load)
  tree, updates = beside.weights(dict(weights='depth'), {'a': 'shape', beside.STEP: shape})
  assert given == dict(a='shape') and updates == 800
  assert tree.keys() == {'a', beside.STEP} and tree[beside.STEP].shape == (4, 3)
  assert not tree[beside.STEP].any()
  tree, _ = beside.weights(dict(weights='depth'), {'a': 'shape'})
  assert tree.keys() == {'a'}


def test_what_ships_is_drawn_in_the_numbers_of_steps_that_the_network_knows(bound):
  bound.experiment.networks.beside = time.Beside((1, 8))
  assert [entry.steps for entry in beside.entries(bound.experiment, config())] == [1, 8]
