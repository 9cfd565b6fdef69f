"""What goes wrong in a run is said, and what was saved stays whole."""

import shutil

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from cdd.core import cli
from cdd.core.errors import UserError
from cdd.runs import config as configs
from cdd.runs import loop
from cdd.runs.experiment import experiment
from cdd.training import checkpoint


@pytest.fixture
def config(prior):
  config = tiny.load('depth.py:tiny', prior)
  config.evaluation = None
  return config


@pytest.fixture
def broken(prior, tmp_path):
  """A copy of the prior that a test may spoil."""
  return shutil.copytree(prior, tmp_path / 'broken')


def steps_in(workdir):
  folder = workdir / 'checkpoints'
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def exploding(config):
  config.steps = 8
  config.optimizer.update(dict(learning_rate=1e30, warmup=0, decay='constant'))
  return config


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_checkpoint_whole(config, tmp_path):
  workdir = tmp_path / 'run'
  config = exploding(config)
  config.log.update(dict(every=1, checkpoint_every=1))
  with pytest.raises(UserError, match=r'is (nan|inf) at step 2.*learning_rate \(1e\+30\)'):
    loop.run(config, workdir)
  assert steps_in(workdir) == [1] and not (workdir / 'export').exists()
  abstract = experiment(config, workdir).abstract
  state, _ = checkpoint.Checkpoints(workdir / 'checkpoints', abstract).restore()
  assert int(state.step) == 1
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.target)))


def test_nothing_broken_is_saved_between_two_logged_steps(config, tmp_path):
  config = exploding(config)
  config.log.update(dict(every=1000, checkpoint_every=4))
  with pytest.raises(UserError, match=r'is (nan|inf) at step 4'):
    loop.run(config, tmp_path / 'run')
  assert steps_in(tmp_path / 'run') == []


def test_a_prior_with_a_nan_is_refused_and_the_tensor_named(config, broken, tmp_path):
  path = broken / 'unet/diffusion_pytorch_model.safetensors'
  tensors = load_file(path)
  tensors['conv_in.bias'] = np.full_like(tensors['conv_in.bias'], np.nan)
  save_file(tensors, path)
  config.prior.path = str(broken)
  with pytest.raises(UserError, match='model.safetensors: conv_in.bias has .* not finite'):
    loop.run(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'checkpoints').exists()


def test_a_workdir_of_another_config_is_refused_with_the_fields_that_differ(config, tmp_path):
  configs.write(config, tmp_path)
  config.seed = 3
  config.optimizer.learning_rate = 0.25
  with pytest.raises(UserError, match='belongs to a run with another config') as error:
    loop.run(config, tmp_path)
  assert 'seed: 0 there, 3 now' in str(error.value)
  assert 'optimizer.learning_rate: 0.001 there, 0.25 now' in str(error.value)
  assert str(error.value).endswith(f'or give another --workdir, such as {tmp_path}_2.')


def test_a_workdir_whose_run_made_no_update_takes_the_config_that_is_mended(config, tmp_path):
  size = config.data.source.size
  config.data.source.size = size + 1
  with pytest.raises(UserError, match='has to be a multiple of 2'):
    loop.run(config, tmp_path)
  assert (tmp_path / 'config.json').exists()
  config.data.source.size = size
  loop.run(config, tmp_path)
  assert steps_in(tmp_path) == [config.steps]
  shutil.rmtree(tmp_path / 'checkpoints')
  (tmp_path / 'log.jsonl').write_text('')
  config.seed += 1  # What was exported is still that of a run.
  with pytest.raises(UserError, match='belongs to a run with another config'):
    configs.check(config, tmp_path)


def test_held_out_pictures_that_latents_would_cut_are_refused_before_training(prior, tmp_path):
  config = tiny.load('depth.py:tiny', prior)
  config.evaluation.metrics, config.log.samples_every = ('psnr',), 0
  config.data.held_out.size = tiny.SIZE + 1
  with pytest.raises(UserError, match='has to be a multiple of 2'):
    loop.run(config, tmp_path)
  assert not (tmp_path / 'checkpoints').exists()


def test_the_same_workdir_again_says_in_one_line_what_becomes_of_the_run(config, tmp_path, capsys):
  workdir = tmp_path / 'depth_tiny'
  loop.run(config, workdir)
  assert 'has a run' not in capsys.readouterr().out
  loop.run(config, workdir)
  config.log.every = 2
  loop.run(config, workdir)
  same, changed = [line for line in capsys.readouterr().out.splitlines() if 'has a run' in line]
  said = f'{workdir} has a run at step 2 of 2, which has ended and is measured again'
  assert same == f'{said}; another --workdir is another run.'
  assert changed == f'{said}, with log.every=2 (was 1); another --workdir is another run.'
  (tmp_path / 'depth_tiny_2').mkdir()
  config.seed = 7  # Any other option under the same name is refused, with a name that is free.
  with pytest.raises(UserError, match=r'\(seed: 0 there, 7 now\).*such as .*/depth_tiny_3[.]$'):
    loop.run(config, workdir)


def test_a_missing_prior_is_named(config, tmp_path):
  config.prior.path = str(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='no pretrained model at .*nowhere.*config.prior.path'):
    loop.run(config, tmp_path / 'run')


@pytest.mark.parametrize(
  'name', ['unet/diffusion_pytorch_model.safetensors', 'text_encoder/model.safetensors']
)
def test_a_safetensors_file_cut_short_is_named(name, config, broken, tmp_path):
  whole = (broken / name).read_bytes()
  (broken / name).write_bytes(whole[: len(whole) // 2])
  config.prior.path = str(broken)
  with pytest.raises(UserError, match=f'{name} cannot be read'):
    loop.run(config, tmp_path / 'run')


@pytest.mark.parametrize('name', ['unet/config.json', 'tokenizer/vocab.json'])
def test_a_file_that_the_prior_lacks_is_named(name, config, broken, tmp_path):
  (broken / name).unlink()
  config.prior.path = str(broken)
  with pytest.raises(UserError, match=f'{name.split("/")[0]} has no {name.split("/")[1]}'):
    loop.run(config, tmp_path / 'run')


def test_a_mistake_of_the_evaluation_is_found_before_training(prior, tmp_path):
  config = tiny.load('depth.py:tiny', prior)
  config.evaluation.steps = (1, 4000)
  with pytest.raises(UserError, match='Cannot sample in 4000 steps; choose 1'):
    loop.run(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'checkpoints').exists()


def test_a_factor_that_does_not_divide_the_picture_is_named(prior, tmp_path):
  config = tiny.load('super_resolution.py:tiny', prior)
  config.data.task.factor = 7
  with pytest.raises(UserError, match='config.data.task.factor=7 does not divide 32x32'):
    loop.run(config, tmp_path / 'run')


def test_a_config_with_a_mistake_in_it_is_named(tmp_path):
  (tmp_path / 'mine.py').write_text('def get_config(:\n')
  with pytest.raises(UserError, match='mine.py cannot be read as a config'):
    cli.load(tmp_path / 'mine.py')


def test_negative_steps_are_refused_before_anything_is_loaded(prior, tmp_path):
  config = tiny.load('depth.py:tiny', prior)
  config.steps = -5
  with pytest.raises(UserError, match='config.steps is -5'):
    loop.run(config, tmp_path / 'run')


def test_a_workdir_below_a_file_is_refused_before_anything_is_loaded(prior, tmp_path):
  (tmp_path / 'file').write_text('')
  config = tiny.load('depth.py:tiny', prior)
  with pytest.raises(UserError, match='cannot be written: .*file is no folder'):
    loop.run(config, tmp_path / 'file' / 'run')


@pytest.mark.parametrize('text', ['{"seed": ', '[1, 2]'])
def test_a_damaged_config_of_a_workdir_is_named(text, prior, tmp_path):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(UserError, match='config.json cannot be read'):
    loop.run(tiny.load('depth.py:tiny', prior), tmp_path)
