"""Owns the log of a run, log.jsonl, cut back to the step resumed from, and fills its boards."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdd.core import files
from cdd.training.boards import BOARDS
from cdd.training.boards.board import About, Shows


def boards(settings: Mapping[str, Any], run: About) -> list[Shows]:
  """Opens the boards that `config.log` turns on; TensorBoard where it says nothing of it.

  Raises:
    UserError: a board needs a package that is not installed, or refuses the run.
  """
  asked = dict(tensorboard=True) | dict(settings)
  return [board.open(run, asked[name]) for name, board in BOARDS.items() if asked.get(name)]


class Writer:
  """Writes scalars and images of a run into its folder; process 0 alone should make one."""

  def __init__(self, folder: Path, *, step: int = 0, boards: Sequence[Shows] = ()):
    self._path = Path(folder) / 'log.jsonl'
    self.before = [row for row in read(self._path) if row['step'] <= step]
    files.write(self._path, ''.join(json.dumps(row) + '\n' for row in self.before))
    self._file = self._path.open('a')
    self._boards = boards

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    row = {name: float(value) for name, value in values.items()}
    self._file.write(json.dumps(dict(step=step, **row)) + '\n')
    self._file.flush()
    for board in self._boards:
      board.write_scalars(step, row)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """`image`: uint8 [H, W, 3]."""
    for board in self._boards:
      board.write_images(step, {name: image})

  def __enter__(self):
    return self

  def __exit__(self, kind, *_) -> None:
    # A full disk is already on its way up where something was raised before.
    quiet = contextlib.suppress(OSError) if kind else contextlib.nullcontext()
    for one in (self._file, *self._boards):
      with quiet:
        one.close()


def read(path: Path) -> list[dict]:
  """The rows of a JSONL log; a last line cut short by a crash is left out."""
  rows = []
  for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
