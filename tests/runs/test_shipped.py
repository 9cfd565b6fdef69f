"""What ships beside a run: its results and its weights (those by make test-slow; minutes)."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from cdd import assets
from cdd.core import cli
from cdd.data import tokens
from cdd.metrics import chosen
from cdd.reports import stored
from cdd.runs import report, streams
from cdd.runs import shipped as beside
from cdd.runs.evaluate import evaluate
from cdd.runs.experiment import experiment
from cdd.runs.rows import mismatched

TASKS = ('depth', 'super_resolution')
TOKENIZERS = dict(tokenizer=assets.PRIOR / 'tokenizer')


def config_of(task, size='tiny'):
  return cli.load(cli.CONFIGS / f'{task}.py', size)


def held_out(config, count=8):
  return streams.held_out(config, tokens.Reader(TOKENIZERS, {}))(count, count)[0]


def measured(config):
  """The sizes whose undistilled models were measured."""
  return [entry['results'].split('_')[-2] for entry in beside.shipped(config, 'results')]


def documented(task, method):
  rows = json.loads((tiny.ROOT / f'docs/results/{task}.json').read_text())
  return {row['steps']: row for row in rows if row['method'] == method}


@pytest.mark.parametrize('task', TASKS)
def test_the_stored_results_are_of_the_examples_that_a_run_is_measured_on(task):
  config = config_of(task)
  rows, shown = beside.results(config, held_out(config))
  updates = [config_of(task, size).steps for size in measured(config)]
  labels = [f'undistilled ({count} updates)' for count in updates]
  assert [row['steps'] for row in rows] == len(updates) * [1, 2, 4, 8, 50]
  assert [row['updates'] for row in rows[::5]] == updates
  assert {(row['method'], row['count']) for row in rows} == {(label, 128) for label in labels}
  assert sorted(shown) == [(label, steps) for label in labels for steps in (1, 4, 50)]
  assert {images.shape for images in shown.values()} == {(8, 64, 64, 3)}


@pytest.mark.parametrize('task', TASKS)
def test_most_stored_images_are_nearer_to_their_truth_than_to_any_other(task):
  config = config_of(task)
  batch = held_out(config)
  _, shown = beside.results(config, batch)
  for images in shown.values():
    errors = ((images[:, None] - batch['image'][None]) ** 2).mean((2, 3, 4))
    assert (errors.argmin(1) == np.arange(8)).mean() > 0.6


@pytest.mark.parametrize('task', TASKS)
def test_the_stored_results_of_1024_examples_are_the_documented_ones(task):
  rows = stored.read(assets.RESULTS / f'{task}_small_finetune').rows
  said = documented(task, 'finetune')
  for row in (row for row in rows if row['count'] == 1024):
    # What was measured are float16 weights, what was documented float32.
    for name in ('lpips', 'psnr', 'ssim', 'frechet'):
      assert row[name] == pytest.approx(said[row['steps']][name], rel=0.01)


def test_results_of_other_held_out_examples_are_left_out(capsys):
  config = config_of('depth')
  config.data.held_out.start = 5000
  assert beside.results(config, held_out(config)) == ([], {})
  assert 'other held-out examples' in capsys.readouterr().out


def test_the_nearest_number_of_examples_is_shown():
  config, batch = config_of('depth'), held_out(config_of('depth'))
  for count, nearest in ((32, 128), (128, 128), (1024, 1024), (5000, 1024)):
    config.evaluation.count = count
    rows, _ = beside.results(config, batch)
    assert {row['count'] for row in rows if row['updates'] == 800} == {nearest}


def test_a_model_is_compared_with_the_results_of_as_many_updates_or_the_nearest():
  rows = [dict(method=f'u{count}', updates=count) for count in (200, 800) for _ in range(3)]
  found = {count: beside.rival(rows, count) for count in (1, 200, 499, 501, 800, 9000)}
  assert found == {1: 'u200', 200: 'u200', 499: 'u200', 501: 'u800', 800: 'u800', 9000: 'u800'}
  assert beside.rival([], 200) is None


@pytest.mark.parametrize('task', TASKS)
def test_the_run_and_what_ships_have_rivals_of_their_own_numbers_of_updates(task):
  config, small = config_of(task), config_of(task, 'small')
  past, _ = beside.results(config, held_out(config))
  rows = [
    dict(method='ours', updates=config.steps),
    dict(method='ours (shipped)', updates=small.steps),
  ]
  assert report.rivals_of(config, rows, past) == {
    'ours': f'undistilled ({config_of(task, measured(config)[0]).steps} updates)',
    'ours (shipped)': f'undistilled ({small.steps} updates)',
  }


def test_nothing_ships_for_another_prior():
  config = config_of('depth')
  config.prior.path = 'elsewhere'
  assert not beside.shipped(config, 'results') and not beside.shipped(config, 'weights')


@pytest.mark.parametrize('process', [0, 1])
def test_every_process_samples_and_process_0_alone_writes(process, tmp_path, monkeypatch, capsys):
  config = config_of('depth', 'small')
  config.evaluation.update(dict(count=8, batch_size=8, steps=(1, 4)))
  batch, calls = held_out(config), []

  def sample(params, batch, number, *, sampler, steps):
    calls.append((sampler, steps))
    return 0.9 * batch['image']

  monkeypatch.setattr(report.jax, 'process_index', lambda: process)
  source = streams.HeldOut(None, None, None, None)
  monkeypatch.setattr(streams.HeldOut, '__call__', lambda self, count, size: [batch])
  monkeypatch.setattr(streams.HeldOut, 'pictures', lambda self, count: count)
  reconstruct = lambda params, images: images
  bound = SimpleNamespace(held_out=source, sample=sample, reconstruct=reconstruct, mesh=None)
  rows = report.evaluate(bound, config, None, tmp_path)
  assert {*calls} == {('consistency', 1), ('consistency', 4)}
  methods = [*dict.fromkeys(row['method'] for row in rows)]
  others = ['ours, condition of another', 'undistilled (800 updates)']  # Not that of 200.
  assert methods == ['ours', *others, 'condition', 'autoencoder of the truth']
  error = np.float64((0.1 * batch['image']) ** 2).mean((1, 2, 3))
  assert rows[0]['psnr'] == pytest.approx(float((-10 * np.log10(error)).mean()), rel=1e-4)
  written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*') if p.is_file()}
  pictures = {f'pictures/{name}.png' for name in ('ours_side_by_side', 'ours')}
  others = {'report.html', 'metrics.json', 'pictures/examples.npz'}
  assert written == (set() if process else others | pictures)
  out = capsys.readouterr().out
  said = '\nAt 4 steps ours (800 updates, measured on 8 examples) and the undistilled model (800 '
  assert (said in out) == bool(out) == (process == 0)


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_the_shipped_weights_measure_what_the_results_say(task, tmp_path):
  config = config_of(task)
  bound = experiment(config, tmp_path)
  batches = bound.held_out(1024, 32)
  for entry in (entry for entry in beside.entries(config, bound.mesh) if entry.steps in (1, 4)):
    assert entry.updates == config_of(task, 'small').steps
    row, _ = evaluate(entry.sample, batches, chosen(config.evaluation.metrics))
    said = documented(task, 'ours')[entry.steps]
    # The files are float16, what was documented float32.
    assert row['lpips'] == pytest.approx(said['lpips'], rel=0.02)
    assert row['frechet'] == pytest.approx(said['frechet'], rel=0.02)


def test_examples_exchange_what_a_row_is_about_and_keep_their_truth():
  seen = []
  sample = mismatched(lambda batch, number: seen.append(batch), ('condition', 'mask'))
  batch = dict(image=np.arange(3), condition=np.arange(3), tokens=np.arange(3))
  sample(batch, 0)
  assert {name: array.tolist() for name, array in seen[0].items()} == dict(
    image=[0, 1, 2], condition=[2, 0, 1], tokens=[0, 1, 2]
  )
