"""Boards show what a run logs: TensorBoard's files and those of Weights & Biases, read back."""

import json
import struct
import sys
import time

import numpy as np
import pytest
import wandb
from tensorboardX.proto.event_pb2 import Event, SessionLog
from wandb.proto.wandb_internal_pb2 import Record

from cdd.core.errors import UserError
from cdd.training import writer
from cdd.training.boards import BOARDS
from cdd.training.boards.board import About

IMAGE = np.full((8, 8, 3), 128, np.uint8)


@pytest.fixture(autouse=True)
def fresh():
  """Weights & Biases reads the environment once in a process, if it is not ended."""
  yield
  wandb.teardown()


def logged(workdir, settings, steps, start=0):
  """A run from `start` on that logs these steps and a picture at the last of them."""
  boards = writer.boards(settings, About(workdir, start, 'toy', dict(seed=3)))
  with writer.Writer(workdir, step=start, boards=boards) as log:
    for step in steps:
      log.scalars(step, dict(loss=step / 10))
    log.image(step, 'samples', IMAGE)


def events(path):
  """The events of a TensorBoard file: (length, its checksum, the event, its checksum) each."""
  data, at = path.read_bytes(), 0
  while at < len(data):
    (length,) = struct.unpack_from('<Q', data, at)
    yield Event.FromString(data[at + 12 : at + 12 + length])
    at += 16 + length


def shown(workdir):
  """(step, loss) as TensorBoard shows them: a START forgets the steps from it on."""
  rows, pictures = [], 0
  for path in sorted((workdir / 'tensorboard').iterdir(), key=lambda path: path.stat().st_mtime_ns):
    for event in events(path):
      if event.session_log.status == SessionLog.START:
        rows = [row for row in rows if row[0] < event.step]
      values = event.summary.value
      rows += [
        (event.step, round(value.simple_value, 5)) for value in values if value.tag == 'loss'
      ]
      pictures += sum(value.HasField('image') for value in values)
  return rows, pictures


def test_a_resumed_run_goes_on_in_tensorboard_without_a_step_twice(tmp_path):
  logged(tmp_path, dict(every=1), [1, 2, 3, 4])
  time.sleep(1.1)  # Files are named by the second.
  logged(tmp_path, dict(every=1), [3, 4, 5], start=2)
  assert shown(tmp_path) == ([(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (5, 0.5)], 2)
  assert [row['step'] for row in writer.read(tmp_path / 'log.jsonl')] == [1, 2, 3, 4, 5]


def test_without_boards_there_is_the_log_alone(tmp_path):
  logged(tmp_path, dict(tensorboard=False, wandb=None), [1])
  assert [path.name for path in tmp_path.iterdir()] == ['log.jsonl']


def records(path):
  """The records of a run of Weights & Biases; the file is shorter than a block of its format."""
  data, at = path.read_bytes(), 7
  while at < len(data):
    _, length, whole = struct.unpack_from('<IHB', data, at)
    assert whole == 1
    yield Record.FromString(data[at + 7 : at + 7 + length])
    at += 7 + length


def test_a_resumed_run_is_the_same_run_of_weights_and_biases(tmp_path, monkeypatch):
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  logged(tmp_path, dict(tensorboard=False, wandb='cdd'), [1, 2])
  time.sleep(1.1)  # Folders are named by the second.
  logged(tmp_path, dict(tensorboard=False, wandb='cdd'), [3], start=2)
  wandb.teardown()  # What is buffered is written.
  paths = sorted((tmp_path / 'wandb').glob('offline-run-*/*.wandb'))
  assert len(paths) == 2 and len({path.name for path in paths}) == 1
  found = [record for path in paths for record in records(path)]
  runs = [record.run for record in found if record.HasField('run')]
  assert {(run.project, run.display_name) for run in runs} == {('cdd', 'toy')}
  rows = []
  for history in (record.history for record in found if record.HasField('history')):
    row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in history.item}
    rows.append((row['_step'], row['loss'], 'samples' in row))
  assert rows == [(1, 0.1, False), (2, 0.2, True), (3, 0.3, True)]


def test_a_package_that_is_missing_is_one_line_with_the_command_that_installs_it(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(UserError, match=r"wandb needs .*: pip install 'cdd-jax\[wandb\]'") as error:
    logged(tmp_path, dict(tensorboard=False, wandb='cdd'), [1])
  assert '\n' not in str(error.value)


def test_without_an_account_it_is_said_how_to_log_in(tmp_path, monkeypatch):
  for name, value in dict(WANDB_MODE='online', WANDB_API_KEY='', HOME=str(tmp_path)).items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr('sys.stdin', None)
  with pytest.raises(UserError, match='refuses the run of config.log.wandb=cdd: .*`wandb login`'):
    logged(tmp_path, dict(tensorboard=False, wandb='cdd'), [1])


@pytest.mark.parametrize('name', BOARDS)
def test_a_board_has_the_methods_of_clus_metric_writers(name):
  methods = ('write_scalars', 'write_images', 'flush', 'close')
  assert all(callable(getattr(BOARDS[name].open, method)) for method in methods)
