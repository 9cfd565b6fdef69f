"""What is set before jax starts: flags, and what libtpu is told on a machine that has no TPUs."""

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


def test_flags_are_added_once_and_never_over_the_users_own(bare, monkeypatch):
  name = runtime.FLAGS['LIBTPU_INIT_ARGS'].partition('=')[0]
  monkeypatch.setenv('XLA_FLAGS', '--xla_dump_to=here')
  monkeypatch.setenv('LIBTPU_INIT_ARGS', f'{name}=4')
  runtime.configure()
  assert os.environ['XLA_FLAGS'] == '--xla_dump_to=here'  # CDD_XLA_FLAGS=off.
  monkeypatch.setenv('CDD_XLA_FLAGS', 'on')
  monkeypatch.setattr(runtime, 'never_return_memory', lambda: None)
  for _ in range(2):
    runtime.configure()
    assert os.environ['XLA_FLAGS'] == f'--xla_dump_to=here {runtime.FLAGS["XLA_FLAGS"]}'
    assert os.environ['LIBTPU_INIT_ARGS'] == f'{name}=4'
