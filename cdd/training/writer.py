"""Owns the logs of a run: log.jsonl and TensorBoard, cut back to the step resumed from."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cdd.core import files


class Writer:
  """Writes scalars and images of a run into its folder; process 0 alone should make one.

  An OSError, of a full disk, is raised where it is written: no thread writes in the background.
  """

  def __init__(self, folder: Path, *, step: int = 0):
    self._path = Path(folder) / 'log.jsonl'
    before = [row for row in read(self._path) if row['step'] <= step]
    files.write(self._path, ''.join(json.dumps(row) + '\n' for row in before))
    self._file = self._path.open('a')
    (Path(folder) / 'tensorboard').mkdir(exist_ok=True)
    self._board = EventsWriter(str(Path(folder) / 'tensorboard' / 'events'))
    # TensorBoard forgets what an earlier run wrote of the steps from here on.
    self._event(step + 1, session_log=SessionLog(status=SessionLog.START))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    row = {name: float(value) for name, value in values.items()}
    self._file.write(json.dumps(dict(step=step, **row)) + '\n')
    self._file.flush()
    for name, value in row.items():
      self._event(step, summary=summary.scalar(name, value))

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """`image`: uint8 [H, W, 3]."""
    self._event(step, summary=summary.image(name, image, dataformats='HWC'))
    self._board.flush()

  def _event(self, step: int, **fields) -> None:
    self._board.write_event(Event(step=step, wall_time=time.time(), **fields))

  def __enter__(self):
    return self

  def __exit__(self, kind, *_) -> None:
    for file in (self._file, self._board):
      try:
        file.close()
      except OSError:
        if kind is None:  # Else a full disk is already on its way up.
          raise


def read(path: Path) -> list[dict]:
  """The rows of a JSONL log; a last line cut short by a crash is left out."""
  rows = []
  for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
