"""What libtpu is told on a machine that has no TPUs, and is not told on one that has."""

import glob
import os

import jax
import pytest

from cdd.core import runtime


@pytest.fixture
def bare(monkeypatch):
  """No word of TPUs, and nothing else that configuring would change."""
  for name in runtime.NO_TPU:
    monkeypatch.setenv(name, '')  # Restored at the end.
    monkeypatch.delenv(name)
  monkeypatch.setenv('CDD_XLA_FLAGS', 'off')
  monkeypatch.setattr(jax.config, 'update', lambda name, value: None)


def told():
  return {name: os.environ[name] for name in runtime.NO_TPU if name in os.environ}


def test_a_machine_without_tpus_says_so_unless_it_was_told_otherwise(bare, monkeypatch):
  monkeypatch.setattr(glob, 'glob', lambda pattern: [])
  monkeypatch.setenv('TPU_ACCELERATOR_TYPE', 'v5p-8')
  runtime.configure()
  assert told() == runtime.NO_TPU | dict(TPU_ACCELERATOR_TYPE='v5p-8')


@pytest.mark.parametrize('chip', ['/dev/accel0', '/dev/vfio/0'])
def test_a_machine_with_tpus_is_left_alone(chip, bare, monkeypatch):
  monkeypatch.setattr(glob, 'glob', lambda pattern: [chip] if pattern[:8] == chip[:8] else [])
  runtime.configure()
  assert told() == {}
