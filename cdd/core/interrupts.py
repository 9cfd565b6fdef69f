"""Owns what a user sees and can do while compiled code runs, which Python cannot leave."""

import contextlib
import functools
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from jax import monitoring

GRACE = 1.0  # Seconds in which Python may react to a signal before it counts as held up.
LAST = 5.0  # Seconds in which Python may end what it does, once it has reacted.
SILENT = 5.0  # Seconds after which a compilation is said.
STOPPING = b'\nStopping: this step is saved, then the run ends. Once more ends it at once.\n'
# How a process ends by a signal: what it says, and its exit code.
INTERRUPTED = 'error: interrupted', 130
_ends = [INTERRUPTED]
_heeded = threading.Event()  # Python has reacted to the last signal.
_ending = threading.Event()  # It has reacted by an exception that ends what it does.
_saving = threading.Event()  # There is something to save, for which a first signal waits.
_told = threading.Event()  # That it waits was said.
_shown: list[Callable[[], None]] = []  # What says that there is a compilation.
_timers: dict[str, threading.Timer] = {}  # Name of a program that is being compiled -> its line.
LOWERED = '/jax/core/compile/jaxpr_to_mlir_module_duration'  # What jax says before a compilation
COMPILED = '/jax/core/compile/backend_compile_duration'  # and after it.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def watch() -> None:
  """Lets Ctrl-C end this process also while compiled code runs; for the main thread.

  Python reacts to a signal between two of its own instructions. A compilation is none of them and
  takes minutes; a thread that hears of the signal ends the process in its place.
  """
  with contextlib.suppress(ValueError):  # Only the main thread may set handlers.
    signal.signal(signal.SIGINT, interrupted)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A child that is forked would write to the same pipe.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_listen, args=(reader,), daemon=True).start()


def interrupted(number, frame) -> None:
  """The handler of a signal that ends what is done; a second signal ends the process at once."""
  del frame
  _ending.set()
  heed(number)
  raise KeyboardInterrupt


def heed(number: int) -> None:
  """Says that Python has reacted to a signal; a second one ends the process at once."""
  _heeded.set()
  signal.signal(number, signal.SIG_DFL)


def saving(active: bool) -> None:
  """Says whether a first signal waits until a step is saved, however long that takes."""
  (_saving.set if active else _saving.clear)()
  _told.clear()


def ends_as(text: str, code: int) -> None:
  """Sets how this process ends by a signal that does not wait."""
  _ends[0] = text, code


def end() -> None:
  """Ends this process and those that it started at once; what is written is whole or not there.

  The interpreter is not shut down, as compiled code that still runs would break in it.
  """
  text, code = _ends[0]
  tell(f'\n{text}\n'.encode())
  for child in multiprocessing.active_children():
    child.kill()
  os._exit(code)


def stopping() -> None:
  """Says once that the run ends as soon as its step is saved."""
  if not _told.is_set():
    _told.set()
    tell(STOPPING)


def tell(said: bytes) -> None:
  """Writes to stderr, unless that lies on a disk that is full: it is no reason not to end."""
  with contextlib.suppress(OSError):
    os.write(2, said)


def _listen(reader: int) -> None:
  while True:
    if os.read(reader, 1)[0] not in SIGNALS:
      continue
    held_up, again = _held_up(reader, GRACE)
    if held_up and _saving.is_set() and not again:
      stopping()
      held_up, again = _held_up(reader, None)
    if not held_up and _ending.is_set():
      time.sleep(LAST)  # The exception may be lost: Python ignores those of callbacks of its own.
    if held_up or _ending.is_set():
      end()
    _heeded.clear()


def _held_up(reader: int, seconds: float | None) -> tuple[bool, bool]:
  """(Python does not react within so many seconds, or a second signal came first; that it came)."""
  deadline = None if seconds is None else time.monotonic() + seconds
  while not _heeded.is_set():
    if select.select([reader], [], [], 0.05)[0]:
      return not _heeded.is_set(), True
    if deadline is not None and time.monotonic() > deadline:
      return True, False
  return False, False


def to_stderr(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def compiling(what: str, say: Callable[[str], None] | None = to_stderr) -> Iterator[None]:
  """Within it one line says that a program is compiled, if that takes long.

  Args:
    what: the program, in words.
    say: prints the line; None: nothing is said.
  """
  if say is None:
    yield
    return
  _listeners()
  lines = [f'Compiling {what} ...']

  def once() -> None:
    while lines:
      say(lines.pop())

  _shown.append(once)
  try:
    yield
  finally:
    _shown.pop()
    for timer in _timers.values():
      timer.cancel()


@functools.cache
def _listeners() -> None:
  monitoring.register_event_duration_secs_listener(_on_event)


def _on_event(event: str, seconds: float, *, fun_name: str = '', **_) -> None:
  """Hears that a program was lowered, after which it is compiled, or that it was compiled."""
  del seconds
  if event == LOWERED and _shown:
    timer = _timers[fun_name] = threading.Timer(SILENT, _shown[-1])
    timer.daemon = True
    timer.start()
  elif event == COMPILED and fun_name in _timers:
    _timers.pop(fun_name).cancel()
