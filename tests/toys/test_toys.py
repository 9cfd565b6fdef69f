"""One file and one line add an entry of every kind: toys go from a config to the report."""

import contextlib
import inspect
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from safetensors.numpy import load_file
from toys import coarse, counted, from_noise, inverted, masked, stripes, variety

from cdd.data import SOURCES, TASKS
from cdd.data.degradations import DEGRADATIONS
from cdd.diffusion.samplers import SAMPLERS
from cdd.methods import METHODS
from cdd.metrics import METRICS, psnr
from cdd.models.adapters import ADAPTERS
from cdd.runs import loop
from cdd.sampling import pipeline
from cdd.training import writer

KINDS = dict(
  task=inverted,
  source=stripes,
  degradation=coarse,
  adapter=masked,
  method=from_noise,
  sampler=counted,
  metric=variety,
)


def register(patch):
  """The one line of each kind."""
  patch.setitem(TASKS, 'inverted', inverted.inverted)
  patch.setitem(SOURCES, 'stripes', stripes.stripes)
  patch.setitem(DEGRADATIONS, 'coarse', coarse.coarse)
  patch.setitem(ADAPTERS, 'masked', masked.Masked)
  patch.setitem(METHODS, 'from_noise', from_noise.FROM_NOISE)
  patch.setitem(SAMPLERS, 'counted', counted.counted)
  patch.setitem(METRICS, 'variety', variety.VARIETY)


@pytest.fixture(scope='module', autouse=True)
def registered():
  with pytest.MonkeyPatch.context() as patch:
    register(patch)
    yield


def run(config, workdir):
  """Trains, exports and evaluates: (the folder, what was printed)."""
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    loop.run(config, workdir)
  return workdir, printed.getvalue()


@pytest.fixture(scope='module')
def done(prior, tmp_path_factory):
  """A run of all toys but the degradation."""
  config = tiny.load('depth.py:tiny', prior)
  with config.unlocked():
    config.data.source = dict(name='stripes', size=tiny.SIZE)
    config.data.held_out = dict(name='stripes', size=tiny.SIZE, length=2)
    config.data.task = dict(name='inverted', least=0.4)
    config.method = dict(name='from_noise', distance=dict(name='squared_l2'), weight=2.0)
    config.model.adapter = dict(name='masked', channel=1)
    config.optimizer.name = 'adamw'  # Muon takes three times as long to compile.
  metrics = (*config.evaluation.metrics, 'variety')
  config.evaluation.update(dict(sampler='counted', steps=(1, 2), metrics=metrics))
  return run(config, tmp_path_factory.mktemp('toys') / 'run')


def table(workdir):
  rows = json.loads((workdir / 'metrics.json').read_text())
  return {(row['method'], row['steps']): row for row in rows}


def striped(count=2):
  source = stripes.stripes(size=tiny.SIZE)
  return np.stack([source[index]['image'] for index in range(count)])


def test_a_toy_metric_is_in_the_page_in_the_file_and_in_what_is_printed(done):
  workdir, printed = done
  page = (workdir / 'report.html').read_text()
  assert 'Variety ↑' in page and 'Variety over sampling steps' in page
  truth = table(workdir)['autoencoder of the truth', None]['variety']
  assert truth > 0 and f'{truth:.4f}</td>' in page.replace('</b>', '')
  lines = [line for line in printed.splitlines() if 's/image' in line]
  assert len(lines) == 5 and all('Variety ' in line for line in lines)
  assert f'Variety {truth:.4f}' in lines[-1]


def test_a_toy_sampler_with_a_memory_is_what_sampled(done):
  one, two = (table(done[0])['ours', steps] for steps in (1, 2))
  assert one['sampler'] == two['sampler'] == 'counted'
  # All images are one, and which one the steps decide, as only the memory counts them.
  assert one['variety'] == two['variety'] == 0
  assert one['psnr'] != two['psnr']
  assert 'counted' in done[1] and 'counted' in (done[0] / 'report.html').read_text()


def test_a_toy_source_and_a_toy_task_make_what_is_trained_and_measured_on(done):
  images = striped()
  row = table(done[0])['condition', None]
  assert row['psnr'] == pytest.approx(psnr.psnr(1 - images, images).mean(), rel=1e-4)


def test_a_toy_task_reads_the_picture_of_a_user(done):
  model = pipeline.load(done[0])
  picture = Image.new('RGB', (4, 3), (255, 0, 51))
  np.testing.assert_allclose(model.task.from_picture(picture)[2, 3], [0, 1, 0.8], atol=1e-6)


def test_a_toy_adapter_that_reads_latents_and_a_mask_is_trained_and_exported(done):
  tensors = load_file(done[0] / 'export' / 'trained.safetensors')
  assert np.abs(tensors['adapter.gain']).max() > 0
  exported = json.loads((done[0] / 'export' / 'config.json').read_text())
  assert exported['model']['adapter'] == dict(name='masked', channel=1)


def test_a_toy_method_is_minimised_and_its_plots_are_drawn(done):
  rows = [row for row in writer.read(done[0] / 'log.jsonl') if 'loss' in row]
  assert [row['step'] for row in rows] == [1, 2]
  assert all(0 < row['loss'] < 2 * row['largest'] ** 2 for row in rows)
  assert '>largest</text>' in (done[0] / 'report.html').read_text()


def test_a_toy_degradation_makes_the_condition(prior, tmp_path):
  config = tiny.load('super_resolution.py:tiny,method=finetune', prior)
  with config.unlocked():
    config.data.source = dict(name='stripes', size=tiny.SIZE)
    config.data.held_out = dict(name='stripes', size=tiny.SIZE, length=2)
    config.data.task.degradation = dict(name='coarse', shades=3)
    config.model.adapter = dict(name='none')
    config.steps = 1  # What is degraded shows in the evaluation.
  config.evaluation.update(dict(sampler='counted', steps=(1,)))
  workdir, _ = run(config, tmp_path / 'run')
  degrade, expected = coarse.coarse(factor=config.data.task.factor, shades=3).on_host, []
  for index, image in enumerate(striped()):
    small = degrade(image, np.random.default_rng((0, index)))
    large = Image.fromarray(small).resize((tiny.SIZE, tiny.SIZE), Image.Resampling.BICUBIC)
    large = np.asarray(large, np.float32)[None] / 255
    expected.append(psnr.psnr(large, image[None])[0])
  assert table(workdir)['bicubic', None]['psnr'] == pytest.approx(np.mean(expected), rel=1e-4)


def test_every_kind_needs_one_file_and_one_line():
  lines = [line for line in inspect.getsource(register).splitlines() if 'setitem' in line]
  for kind, toy in KINDS.items():
    names = [line for line in lines if f'{toy.__name__.split(".")[-1]}.' in line]
    length = len(Path(toy.__file__).read_text().splitlines())
    print(f'{kind}: 1 file of {length} lines, {len(names)} line in the table')
    assert len(names) == 1 and length <= 30
  assert len(lines) == len(KINDS)
