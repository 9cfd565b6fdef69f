"""The long training of the prior by PyTorch: its error is ours, and it goes on where it stopped."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks import long_prior
from cdd.core.errors import UserError
from cdd.diffusion.process import Pair, compose
from cdd.sampling import load
from configs import pretrain

WEIGHTS = 'export/unet/diffusion_pytorch_model.safetensors'


@pytest.fixture
def config(monkeypatch):
  return small(monkeypatch)


def small(monkeypatch):
  """The config of a small U-Net, on scenes alone."""
  scenes = lambda part: dict(name='scenes', size=64, start=part * 1000)
  monkeypatch.setattr(pretrain, 'long_source', scenes)
  monkeypatch.setattr(long_prior, 'HELD_OUT', 4)
  monkeypatch.setattr(long_prior, 'EVERY', 2)
  monkeypatch.setattr(long_prior, 'MINUTES', type('Flag', (), dict(value=None)))
  config = pretrain.get_config('gpu')
  config.steps = 4
  config.prior.new.unet = pretrain.levels((8, 16), 16, 4)
  config.data.update(dict(batch_size=2, cache=4, workers=0))
  config.optimizer.warmup = 1
  return config


@pytest.fixture(scope='module')
def frozen():
  return long_prior.Frozen.read(long_prior.PACKAGED)


def train(config, frozen, home, *, steps=10):
  """Goes on for so many updates at most; (the run, what it showed)."""
  shown, left = [], [None] * steps
  run = long_prior.Run(config, frozen)
  run.restore(home / 'state.pt')
  examples = long_prior.Examples(home / 'examples', config, frozen)
  stopped = lambda: not left or left.pop()
  long_prior.fit(run, examples, home, show=shown.append, stopped=stopped)
  if not long_prior.RANK:
    long_prior.export(run, home / 'export')
  return run, shown


def test_a_run_that_was_stopped_ends_as_an_unbroken_one(config, frozen, tmp_path):
  run, shown = train(config, frozen, tmp_path / 'unbroken')
  assert re.match(r'the packaged prior: .*: scenes 0\.\d+ .*, photos 0\.\d+ ', shown[0])
  assert re.search(r' 4 of 8 examples; .* 8 of 8 examples; .* 0\.0 h left', ' '.join(shown[1:]))
  first, _ = train(config, frozen, tmp_path / 'stopped', steps=1)
  early = (tmp_path / 'stopped' / WEIGHTS).read_bytes()
  again, _ = train(config, frozen, tmp_path / 'stopped')
  assert (first.update, again.update, run.update) == (1, 4, 4)
  late = (tmp_path / 'stopped' / WEIGHTS).read_bytes()
  assert early != late == (tmp_path / 'unbroken' / WEIGHTS).read_bytes()


SHARED = """
import pathlib, sys
import pytest
from torch import distributed
import test_long_prior as test
distributed.init_process_group('gloo')
config = test.small(pytest.MonkeyPatch())
frozen = test.long_prior.Frozen.read(test.long_prior.PACKAGED)
run, shown = test.train(config, frozen, pathlib.Path(sys.argv[1]), steps=2)
assert run.update == 2 and bool(shown) == (test.long_prior.RANK == 0), shown
"""


def test_two_processes_share_a_batch(config, frozen, tmp_path):
  """They encode a part each, take half a batch each, and end in the weights of one process."""
  script, here = tmp_path / 'shared.py', Path(__file__)
  script.write_text(SHARED)
  launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
  paths = os.pathsep.join((str(here.parent), str(here.parents[2])))
  subprocess.run(
    [*launch, script, tmp_path / 'two'], check=True, env={**os.environ, 'PYTHONPATH': paths}
  )
  train(config, frozen, tmp_path / 'one', steps=2)
  two, one = (torch.load(tmp_path / name / 'state.pt') for name in ('two', 'one'))
  begun = long_prior.Run(config, frozen).prior.state_dict()
  change = lambda state: torch.cat([(state[name] - begun[name]).flatten() for name in begun])
  likeness = torch.cosine_similarity(change(two['prior']), change(one['prior']), dim=0)
  assert likeness > 0.97  # Adam's first updates are of one size, so that rounding counts.


def test_what_it_exports_predicts_the_same_in_jax(config, frozen, tmp_path):
  run, _ = train(config, frozen, tmp_path, steps=2)
  model = load(tmp_path / 'export')
  captions = ['a red ball', 'a blue block']
  latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
  t = torch.tensor([199, 999])
  prior = copy.deepcopy(run.averaged.module).half().float()
  noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
  ids = frozen.ids(captions)
  with torch.no_grad():
    expected = long_prior.loss(prior, frozen, latents, ids, t, noise).item()

  last = lambda array: jnp.asarray(array.permute(0, 2, 3, 1).numpy())
  x, noise = last(latents), last(noise)
  times = jnp.asarray(t.numpy() + 1).reshape(2, 1, 1, 1)
  level = model.networks.schedule(times)
  raw = model.words(captions, (64, 64))
  denoise = model.networks.denoiser(model.params, model.networks.condition(model.params, raw))
  v = denoise(compose(Pair(x, noise), level), times, None)
  found = jnp.mean((v - (level.alpha * noise - level.sigma * x)) ** 2)
  np.testing.assert_allclose(float(found), expected, rtol=1e-4)


def test_muon_moves_the_kernels_themselves(config, frozen):
  """It is given matrices; they share the memory of what the U-Net computes with."""
  run = long_prior.Run(config, frozen)
  kernel = run.prior.unet.down_blocks[0].resnets[0].conv1.weight
  words = run.prior.text_encoder.get_input_embeddings().weight
  before, words_before = kernel.detach().clone(), words.detach().clone()
  examples = torch.randn(2, 4, 16, 16), frozen.ids(['a red ball', ''])
  run.step(*examples)
  change = (kernel - before).flatten(1)
  # Its directions are orthogonal: all singular values of an update are nearly alike.
  values = torch.linalg.svdvals(change)
  assert values.min() > 0.5 * values.max() > 0
  assert (words != words_before).any(1).sum() >= 3  # The text encoder learns too.


def test_what_is_exported_does_not_name_the_folder_it_started_from(config, frozen, tmp_path):
  run = long_prior.Run(config, frozen, str(long_prior.PACKAGED))
  long_prior.export(run, tmp_path / 'export')
  files = list((tmp_path / 'export').glob('*/config.json'))
  assert len(files) == 3
  assert not any(str(long_prior.PACKAGED) in path.read_text() for path in files)


def test_a_parameter_without_a_gradient_is_not_passed_over(config, frozen):
  run = long_prior.Run(config, frozen)
  run.prior.unet.mid_block.requires_grad_(False)
  with pytest.raises(RuntimeError, match=r'No gradient reaches \d+ of \d+ parameters'):
    run.step(torch.randn(2, 4, 16, 16), frozen.ids(['a red ball', '']))


def test_a_home_without_a_checkpoint_cannot_be_exported(tmp_path, monkeypatch):
  monkeypatch.setattr(long_prior, 'HOME', type('Flag', (), dict(value=str(tmp_path))))
  monkeypatch.setattr(long_prior, 'EXPORT', type('Flag', (), dict(value=True)))
  for name, value in dict(THREADS=1, STAGE='long', WEIGHTS=None).items():
    monkeypatch.setattr(long_prior, name, type('Flag', (), dict(value=value)))
  with pytest.raises(UserError, match='no checkpoint yet'):
    long_prior.main()
