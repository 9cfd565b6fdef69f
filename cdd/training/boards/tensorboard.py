"""Owns TensorBoard: event files without TensorFlow, which a resumed run goes on with."""

import time
from collections.abc import Mapping

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cdd.training.boards.board import About


class TensorBoard:
  """Event files in the folder `tensorboard` of a run, one for each time that it was started.

  An OSError, of a full disk, is raised where it is written: no thread writes in the background.
  """

  def __init__(self, run: About, on: bool = True):
    del on
    folder = run.workdir / 'tensorboard'
    folder.mkdir(exist_ok=True)
    self._events = EventsWriter(str(folder / 'events'))
    # TensorBoard forgets what an earlier file says of the steps from here on.
    self._event(run.step + 1, session_log=SessionLog(status=SessionLog.START))

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    for name, value in scalars.items():
      self._event(step, summary=summary.scalar(name, value))

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    for name, image in images.items():
      self._event(step, summary=summary.image(name, image, dataformats='HWC'))
    self.flush()

  def flush(self) -> None:
    self._events.flush()

  def close(self) -> None:
    self._events.close()

  def _event(self, step: int, **fields) -> None:
    self._events.write_event(Event(step=step, wall_time=time.time(), **fields))
