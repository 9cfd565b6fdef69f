"""Owns the logs of a run: log.jsonl and TensorBoard, cut back to the step resumed from."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

from cdd.core import files


class Writer:
  """Writes scalars and images of a run into its folder; process 0 alone should make one."""

  def __init__(self, folder: Path, *, step: int = 0):
    self._path = Path(folder) / 'log.jsonl'
    before = [row for row in read(self._path) if row['step'] <= step]
    files.write(self._path, ''.join(json.dumps(row) + '\n' for row in before))
    self._file = self._path.open('a')
    self._board = SummaryWriter(str(Path(folder) / 'tensorboard'), purge_step=step + 1)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    row = {name: float(value) for name, value in values.items()}
    self._file.write(json.dumps(dict(step=step, **row)) + '\n')
    self._file.flush()
    for name, value in row.items():
      self._board.add_scalar(name, value, step)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """`image`: uint8 [H, W, 3]."""
    self._board.add_image(name, image, step, dataformats='HWC')

  def __enter__(self):
    return self

  def __exit__(self, *_) -> None:
    self._file.close()
    self._board.close()


def read(path: Path) -> list[dict]:
  """The rows of a JSONL log; a last line cut short by a crash is left out."""
  rows = []
  for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
