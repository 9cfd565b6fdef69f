"""The jax of a host of the slice that standin.py plays: it counts what is told to it."""

import os
import types

__version__ = '0.10.2'
_joined = False


def _join():
  global _joined
  _joined = True


distributed = types.SimpleNamespace(initialize=_join)


def process_count():
  return int(os.environ['HOSTS']) if _joined else 1


def process_index():
  return int(os.environ['INDEX']) if _joined else 0


def device_count():
  return int(os.environ['CHIPS']) if _joined or os.environ['HOSTS'] == '1' else 0


def devices():
  count = int(os.environ['SLICES'])
  return [types.SimpleNamespace(slice_index=at % count) for at in range(device_count())]


def default_backend():
  return 'tpu'
