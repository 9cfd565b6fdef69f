"""Owns traces of the devices: of updates that a config names, or of the next on a signal."""

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

import jax

SIGNAL = signal.SIGUSR1
COUNT = 5  # Updates that are traced on the signal.


def unheard() -> None:
  """Has the signal do nothing where no update is made; else it would end the process."""
  with contextlib.suppress(ValueError):  # Only the main thread may set handlers.
    signal.signal(SIGNAL, signal.SIG_IGN)


class Profiler:
  """Traces updates into PROFILES/STEP, as xprof and ui.perfetto.dev read them.

  A process traces its own devices: updates that are named on every process, a signal on the one
  that gets it.
  """

  def __init__(
    self,
    folder: Path,
    asked: str | None = None,
    *,
    pause: Callable = contextlib.nullcontext,
    say: Callable[[str], None] = print,
  ):
    """Traces into `folder`.

    Args:
      asked: 'START:STOP', the updates START .. STOP - 1.
      pause: a context for what is no training.
      say: what the path of a trace is given to.
    """
    self._folder, self._pause, self._say = Path(folder), pause, say
    self._start, self._stop = map(int, asked.split(':')) if asked else (0, 0)
    self._signalled = False
    self._path = None

  def before(self, step: int) -> None:
    """Begins a trace if one of this update is asked for."""
    if self._path is None and self._signalled:
      self._start, self._stop, self._signalled = step, step + COUNT, False
    if self._path is None and self._start <= step < self._stop:
      process = jax.process_index()
      self._path = self._folder / (f'{step:07d}_process_{process}' if process else f'{step:07d}')
      with self._pause():
        jax.profiler.start_trace(str(self._path))

  def after(self, step: int, result) -> None:
    """Ends the trace of which this update is the last, once its result is there."""
    if self._path is not None and step + 1 >= self._stop:
      jax.block_until_ready(result)
      self._end()

  def _end(self) -> None:
    with self._pause():
      jax.profiler.stop_trace()
    self._say(f'Wrote a trace to {self._path}.')
    self._path = None

  def __enter__(self):
    def ask(number, frame):
      self._signalled = True

    self._old = None
    with contextlib.suppress(ValueError):  # Only the main thread may set handlers.
      self._old = signal.signal(SIGNAL, ask)
    return self

  def __exit__(self, *_) -> None:
    if self._old is not None:
      signal.signal(SIGNAL, self._old)
    if self._path is not None:  # The run ended within it.
      self._end()
