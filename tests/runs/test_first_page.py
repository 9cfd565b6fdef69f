"""Before a run trains, a page shows what ships beside the undistilled model."""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from cdd.core import cli
from cdd.core.errors import UserError
from cdd.pretrained import trained
from cdd.reports import pictures, stored
from cdd.runs import first_page
from cdd.runs import shipped as beside
from cdd.runs.experiment import experiment
from cdd.training import sharding

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
  made = SimpleNamespace(mesh='a mesh', held_out=lambda count, size: [BATCH], sample=sample)
  ships = lambda name, mesh: (lambda *given, **how: made.sample((name, mesh), *given, **how), 600)
  monkeypatch.setattr(beside, 'model', ships)
  return SimpleNamespace(experiment=made, calls=calls)


def test_the_first_page_shows_few_steps_of_what_ships_beside_many_of_the_undistilled(
  bound, tmp_path, capsys
):
  first_page.write(bound.experiment, config(), tmp_path)
  assert bound.calls == [(('w', 'a mesh'), 0, 'consistency', steps) for steps in pictures.FEW]
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


@pytest.mark.parametrize('options', ['method=step_aware,train=adapter', 'adapter=concat'])
def test_a_model_that_ships_draws_by_its_own_networks(options, tmp_path, monkeypatch):
  """Whatever the run's are: the parameters are those of its export, the rest the prior's."""
  own = cli.load(cli.CONFIGS / 'depth.py', f'tiny,{options}')
  made = experiment(own, tmp_path)
  shapes = made.abstract.params
  half = {k: RNG.normal(0, 0.05, v.shape).astype(np.float16) for k, v in shapes.items()}
  params = {k: v.astype(np.float32) for k, v in half.items()}
  trained.save(params, tmp_path / 'w.safetensors')
  (tmp_path / 'w.json').write_text(own.to_json_best_effort())
  monkeypatch.setattr(beside.assets, 'TRAINED', tmp_path)
  beside.model.cache_clear()
  (batch,) = made.held_out(2, 2)
  sample, updates = beside.model('w', sharding.make_mesh())
  found = sample(batch, 3, sampler='consistency', steps=1)
  expected = made.sample(params, batch, 3, sampler='consistency', steps=1)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  beside.model.cache_clear()
  assert updates == own.steps and np.std(found) > 0.01
