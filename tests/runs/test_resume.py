"""A run that was stopped: what it left, what may change when it goes on, and what may not."""

import errno
import shutil

import numpy as np
import pytest
import tiny

from cdd import sampling
from cdd.core import hosts
from cdd.core.errors import UserError
from cdd.pretrained import diffusers, locate, trained
from cdd.pretrained.convert import convert
from cdd.runs import config as configs
from cdd.runs import loop
from cdd.training import checkpoint, writer


def settings(prior):
  config = tiny.load('depth.py:tiny', prior)
  config.evaluation = None
  config.steps = 6
  config.log.update(dict(every=1, samples_every=2, checkpoint_every=5, keep=5))
  return config


@pytest.fixture(scope='module')
def stopped(prior, tmp_path_factory):
  """The folder of a run that was stopped after step 3."""
  workdir = tmp_path_factory.mktemp('stopped') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(hosts.Stop, 'reached', lambda self, step: step == 3)
    loop.run(settings(prior), workdir)
  assert checkpoint.steps(workdir / 'checkpoints') == [3] and not (workdir / 'export').exists()
  return workdir


@pytest.fixture
def workdir(stopped, tmp_path):
  """A copy of it."""
  return shutil.copytree(stopped, tmp_path / 'run')


def test_a_run_goes_on_with_more_steps_and_other_hardware_and_says_what_changed(
  prior, workdir, capsys
):
  config = settings(prior)
  config.steps = 7
  config.data.threads, config.data.workers = 1, 1
  config.model.remat, config.mesh.fsdp, config.log.every = True, -1, 2
  config.mesh.data = 1
  loop.run(config, workdir)
  (line,) = [line for line in capsys.readouterr().out.splitlines() if 'has a run' in line]
  assert line.startswith(f'{workdir} has a run at step 3 of 7, which goes on, with ')
  for part in (
    'steps=7 (was 6)',
    'data.threads=1 (was',
    'model.remat=True (was False)',
    'mesh.fsdp',
  ):
    assert part in line
  assert [row['step'] for row in writer.read(workdir / 'log.jsonl') if 'score' in row] == [
    2,
    4,
    6,
    7,
  ]
  # Previews follow samples_every, also where no checkpoint is written.
  assert sorted(int(path.stem) for path in (workdir / 'samples').iterdir()) == [2, 4, 6, 7]
  assert checkpoint.steps(workdir / 'checkpoints') == [3, 5, 7]


def test_a_run_goes_on_with_larger_batches_from_the_first_example_that_it_has_not_seen(
  prior, workdir, capsys, monkeypatch
):
  config, seen = settings(prior), []
  config.data.batch_size, config.accumulate, config.steps = 4, 2, 5
  config.data.caption_dropout = 0.5
  step = loop.Loop.step

  def watched(self, state, number):
    seen.append(self._experiment.batches.get_state()['next_example'])
    return step(self, state, number)

  monkeypatch.setattr(loop.Loop, 'step', watched)
  loop.run(config, workdir)
  said = capsys.readouterr().out
  for part in ('data.batch_size=4 (was 2)', 'accumulate=2 (was 1)', 'data.caption_dropout=0.5'):
    assert part in said
  # Three batches of two were drawn: the next whole batch of four begins at example 8.
  assert seen == [8, 12]


def test_fewer_steps_than_were_made_are_refused(prior, workdir):
  config = settings(prior)
  config.steps = 2
  with pytest.raises(UserError, match='is at step 3 already, past config.steps=2'):
    configs.check(config, workdir)


def test_what_makes_another_run_is_refused_with_a_way_out(prior, workdir):
  config = settings(prior)
  config.seed = 4
  config.steps = 9
  with pytest.raises(UserError) as error:
    configs.check(config, workdir)
  assert 'seed: 0 there, 4 now' in str(error.value)
  assert 'steps' not in str(error.value) and '--config.seed=0' in str(error.value)


def test_a_run_that_has_not_ended_is_sampled_and_converted_at_its_newest_checkpoint(
  stopped, tmp_path
):
  pipeline = sampling.load(stopped)
  condition = np.zeros((tiny.SIZE, tiny.SIZE, 3), np.float32)
  images = pipeline('a ball', condition, steps=1)
  assert np.array_equal(images, sampling.load(stopped, step=3)('a ball', condition, steps=1))
  assert 'ControlNet' not in convert(str(stopped), tmp_path / 'out')
  state = checkpoint.evaluated(stopped / 'checkpoints' / '3')
  written = diffusers.load(tmp_path / 'out').params
  shared = state.keys() & written.keys()
  assert shared and all(np.array_equal(state[k], written[k]) for k in shared)


def test_a_step_that_has_no_checkpoint_is_named_with_those_there_are(stopped, tmp_path):
  with pytest.raises(UserError, match=r'no checkpoint of step 4; choose one of \[3\]'):
    locate.locate(stopped, step=4)
  with pytest.raises(UserError, match='is no run with a checkpoint'):
    locate.locate(tmp_path, step=4)


def test_an_unfinished_autoencoder_is_refused(stopped):
  with pytest.raises(UserError, match='scale of its latents is measured when the run ends'):
    trained.load(stopped / 'checkpoints' / '3', {'vae.encoder.conv_in.kernel': np.zeros(1)})


def full(*_, **__):
  raise OSError(errno.ENOSPC, 'No space left on device')


def full_in_tensorstore(*_, **__):
  raise ValueError('RESOURCE_EXHAUSTED: Error writing "x": No space left on device [...]')


@pytest.mark.parametrize(
  ('where', 'fails'),
  [
    ('cdd.training.writer.Writer.scalars', full),
    ('cdd.training.integrity.seal', full),
    ('orbax.checkpoint.CheckpointManager.save', full_in_tensorstore),
  ],
)
def test_a_full_disk_is_one_line_that_names_the_last_checkpoint(
  where, fails, prior, workdir, monkeypatch
):
  monkeypatch.setattr(where, fails)
  with pytest.raises(UserError, match='cannot be written: .*No space left.* is of step') as error:
    loop.run(settings(prior), workdir)
  assert '\n' not in str(error.value)


def test_a_disk_with_too_little_room_is_said_before_a_checkpoint_is_begun(
  prior, workdir, monkeypatch
):
  monkeypatch.setattr(shutil, 'disk_usage', lambda folder: shutil._ntuple_diskusage(10, 0, 1000))
  with pytest.raises(UserError, match='0.0 MB are free, .* the last checkpoint is of step 3'):
    loop.run(settings(prior), workdir)
