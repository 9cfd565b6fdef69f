"""Owns what a board is: where the scalars and pictures of a run are shown."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np


class Shows(Protocol):
  """An open board. These are methods of clu's MetricWriter, so that any of those fits as well."""

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """`images`: name -> uint8 [H, W, 3]."""

  def flush(self) -> None: ...

  def close(self) -> None: ...


class About(NamedTuple):
  """What a board is told of a run.

  Attributes:
    workdir: its folder.
    step: that it goes on from; 0 is a new run.
    name: what it is called.
    config: as JSON has it.
  """

  workdir: Path
  step: int = 0
  name: str = ''
  config: Mapping[str, Any] = {}


class Board(NamedTuple):
  """A kind of board.

  Attributes:
    open: (About, the value of its field of config.log) -> a board; a UserError says what it lacks.
    kind: the type of that field; what is not true leaves the board out.
    words: what messages call the field's values, if not by their type.
  """

  open: Callable[[About, Any], Shows]
  kind: Any
  words: str = ''
