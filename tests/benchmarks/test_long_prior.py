"""The long training of the prior: what its log says, and how its stages follow one another."""

import os
import re
import signal

import pytest
import tiny

from benchmarks import long_prior
from configs import pretrain


@pytest.fixture
def config(prior, monkeypatch):
  """A candidate with patches of latents, reduced to two steps."""
  monkeypatch.setattr(long_prior, 'HELD_OUT', 4)
  monkeypatch.setattr(long_prior, 'BATCH', 2)
  config = tiny.load('pretrain.py:shape_large', prior)
  config.prior.new.unet.update(dict(tiny.UNET, sample_size=8))
  return config


@pytest.mark.slow
def test_a_stage_says_how_far_it_is_and_is_not_trained_again(config, tmp_path):
  shown = []
  assert long_prior.fit(config, tmp_path / 'run', every=1, show=shown.append)
  first, second = shown[1:]
  assert re.search(r': 2 of 4 examples; held-out error of v: scenes \d.*, photos \d', first)
  assert re.search(r': 4 of 4 examples; .*t 1000: .* 0.0 h left', second)
  assert (tmp_path / 'run/export/vae/config.json').read_text().count('"patch": 2') == 1
  shown.clear()
  assert long_prior.fit(config, tmp_path / 'run', every=1, show=shown.append) and not shown


@pytest.mark.slow
def test_a_stage_stopped_by_a_signal_ends_as_an_unbroken_one(config, tmp_path, capsys):
  weights = 'export/unet/diffusion_pytorch_model.safetensors'
  config.log.checkpoint_every = 1
  ask = lambda text: os.kill(os.getpid(), signal.SIGTERM) if '2 of 4 examples' in text else None
  assert not long_prior.fit(config, tmp_path / 'stopped', every=1, show=ask)
  long_prior.export_now(config, tmp_path / 'stopped')  # As it is, before it has ended.
  assert 'after 1 updates' in capsys.readouterr().out
  early = (tmp_path / 'stopped' / weights).read_bytes()
  assert long_prior.fit(config, tmp_path / 'stopped', every=1, show=ask)
  long_prior.fit(config, tmp_path / 'unbroken', every=2, show=ask)
  late = (tmp_path / 'stopped' / weights).read_bytes()
  assert early != late
  assert late == (tmp_path / 'unbroken' / weights).read_bytes()


def test_a_stage_starts_from_what_the_one_before_it_exported(tmp_path):
  (first, _), (second, folder) = list(long_prior.stages(pretrain.LONG, tmp_path))[:2]
  assert first.prior.to_dict() == dict(path='packaged')
  assert second.prior.to_dict() == dict(path=str(tmp_path / pretrain.LONG[0] / 'export'))
  assert folder == tmp_path / pretrain.LONG[1]
  numbers = lambda c: {s['start'] for s in c.data.source.sources if s['name'] == 'scenes'}
  assert not numbers(first) & numbers(second)
