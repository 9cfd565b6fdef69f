"""Owns what the processes of one run tell each other: that they join, stop, fail or are gone."""

import contextlib
import os
import signal
import threading
import time
import traceback

import jax
from jax._src import distributed  # The coordinator's table of keys has no public name.
from jax.experimental import multihost_utils

from cdd.core import interrupts
from cdd.core.errors import UserError

GONE = 25.0  # Seconds without a sign of life after which a process counts as gone.
# The exit code of a run that a signal stopped and that was saved: EX_TEMPFAIL of sysexits.h.
RESUMES = 75
UNTRAINED = 'Stopped before a step was made; the same command starts there again.', RESUMES


def join(coordinator: str | None, count: int | None, index: int | None) -> None:
  """Joins the other processes, before the first use of a device.

  Args:
    coordinator: 'HOST:PORT' of process 0, the same on all.
    count, index: how many processes there are, and which this one is.
    What is None is found on TPU pods, under Slurm and Open MPI.

  Raises:
    UserError: what is needed is neither given nor found, or does not fit.
  """
  if coordinator is not None and not coordinator.rpartition(':')[2].isdigit():
    raise UserError(f'--coordinator={coordinator} is not HOST:PORT, such as 10.0.0.1:8476.')
  try:
    jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=int(2 * GONE))
  except (ValueError, TypeError, RuntimeError, KeyError) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(
      f'The processes cannot be joined: {reason} Give --coordinator=HOST:PORT of process 0, '
      '--num_processes and --process_id; they are found on TPU pods and under Slurm alone.'
    ) from error


def end_on_sigterm() -> None:
  """Lets SIGTERM end this process, where jax notes it for a loop that asks, as `Stop` does."""
  signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def together():
  """Within it, a process that fails or is gone ends all others too, and they say which it was.

  At its end they have waited for one another and left: nothing after it may need the others.
  """
  if jax.process_count() == 1:
    yield
    return
  signs = Signs(distributed.global_state.client, jax.process_index(), jax.process_count())
  signs.start()
  try:
    yield
  except UserError as error:
    signs.fail(str(error))
  except KeyboardInterrupt:
    signs.fail('interrupted')
  except Exception as error:
    # Most likely another has gone, which broke a collective: then `signs` says so and ends this.
    time.sleep(1.5 * GONE)
    interrupts.tell(traceback.format_exc().encode())
    signs.fail((str(error).splitlines() or [type(error).__name__])[0])
  signs.over = True
  jax.distributed.shutdown()
  signs.join(5)  # A thread that still asks while the interpreter ends would abort it.


class Signs(threading.Thread):
  """Writes a sign of life twice a second, and reads those of the others."""

  def __init__(self, client, index: int, count: int):
    super().__init__(daemon=True)
    self._client, self._index, self._count = client, index, count
    self._seen = dict.fromkeys(range(count), ('', time.monotonic()))
    self.over = False

  def run(self) -> None:
    beat = 0
    while True:  # Also while this process, at its end, waits for the others.
      try:
        self._client.key_value_set(f'cdd/alive/{self._index}', str(beat), allow_overwrite=True)
        if not self.over:
          self._look()
      except jax.errors.JaxRuntimeError:
        # At the end of a run the table is closed; else jax itself ends the process.
        return None if self.over else leave('process 0, the coordinator, cannot be reached.')
      beat += 1
      time.sleep(0.5)

  def _look(self) -> None:
    for index, message in self._read('end').items():
      if index != self._index and not self.over:
        self._client.key_value_set(f'cdd/end/{self._index}', '', allow_overwrite=True)
        leave(f'process {index} of {self._count} ended: {message}' if message else None)
    now = time.monotonic()
    for index, beat in self._read('alive').items():
      if beat != self._seen[index][0]:
        self._seen[index] = beat, now
    gone = [index for index, (_, when) in self._seen.items() if now - when > GONE]
    if gone:
      leave(f'of {self._count} processes, {gone} gave no sign of life for {GONE:.0f} seconds.')

  def _read(self, kind: str) -> dict[int, str]:
    found = self._client.key_value_dir_get(f'cdd/{kind}/')
    return {int(key.rpartition('/')[2]): value for key, value in found}

  def fail(self, message: str) -> None:
    """Tells the others why this process ends, waits until they have read it, and ends it."""
    self.over = True
    interrupts.tell(f'error: {message}\n'.encode())
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._client.key_value_set(f'cdd/end/{self._index}', message, allow_overwrite=True)
      deadline = time.monotonic() + 5
      while len(self._read('end')) < self._count and time.monotonic() < deadline:
        time.sleep(0.1)
    os._exit(1)


def leave(message: str | None) -> None:
  """Ends the process at once: at its exit jax would wait for all the others."""
  if message:
    again = 'Start all of them again with the same command: they resume from the last checkpoint.'
    interrupts.tell(f'\nerror: {message} {again}\n'.encode())
  os._exit(1)


class Stop:
  """Turns the first SIGTERM or Ctrl-C of any process into a request to save and leave.

  Of a single process it does so from its first step on. Before it there is nothing to save, and the
  signal ends the process, also in the middle of a compilation (`interrupts.watch`).
  """

  def __init__(self):
    self._asked = self._begun = False

  def reached(self, step: int) -> bool:
    """Whether to stop after this step: the same on all processes, which all ask at every step."""
    if jax.process_count() == 1:
      if not self._begun:
        self._begun = True
        interrupts.ends_as(*interrupts.INTERRUPTED)
        interrupts.saving(True)
      return self._asked
    return multihost_utils.reached_preemption_sync_point(step)

  def __enter__(self):
    several = jax.process_count() > 1
    interrupts.saving(several)
    interrupts.ends_as(*interrupts.INTERRUPTED if several else UNTRAINED)

    def ask(number, frame):
      if not (several or self._begun):
        interrupts.interrupted(number, frame)
      self._asked = True
      interrupts.stopping()
      interrupts.heed(number)
      if several:  # Jax listens to SIGTERM, and tells the others.
        os.kill(os.getpid(), signal.SIGTERM)

    numbers = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
    self._old = {}
    with contextlib.suppress(ValueError):  # Only the main thread may set handlers.
      self._old = {number: signal.signal(number, ask) for number in numbers}
      # Once no step asks, jax's handler would swallow it.
      self._old |= {signal.SIGTERM: signal.SIG_DFL} if several else {}
    return self

  def __exit__(self, kind, *_):
    interrupts.saving(False)
    if kind is not KeyboardInterrupt:  # Which has not ended the process yet.
      interrupts.ends_as(*interrupts.INTERRUPTED)
    for number, handler in self._old.items():
      signal.signal(number, handler)
