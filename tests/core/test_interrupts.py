"""Ctrl-C while compiled code runs, and what is said of a compilation."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
import tiny

from cdd.core import hosts, interrupts

# A wait for a lock of C holds Python up as a compilation does, and no signal ends it.
HELD_UP = """
import ctypes, sys, time
from cdd.core import hosts, interrupts
interrupts.watch()
def hold(seconds):
  lock, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
  library.pthread_mutex_lock(lock)
  until = (ctypes.c_long * 2)(int(time.time() + seconds), 0)
  print('held', flush=True)
  library.pthread_mutex_timedlock(lock, until)
"""
CASES = dict(
  compiling='hold(20)',
  first_step='with hosts.Stop(): hold(20)',
  python="print('held', flush=True)\ntry:\n  time.sleep(20)\nfinally:\n  print('cleaned up')",
  lost="""
class Ignoring:
  def __del__(self):
    print('held', flush=True)
    time.sleep(20)
Ignoring()
time.sleep(20)
""",
  saving="""
with hosts.Stop() as stop:
  assert not stop.reached(1)
  hold(4)
  print('stopped', stop.reached(2), flush=True)
""",
  twice="""
with hosts.Stop() as stop:
  stop.reached(1)
  hold(20)
""",
  command="""
from cdd.core import cli
cli.run(lambda: print('held', flush=True) or time.sleep(20))
""",
  run="""
from cdd.core import cli
def main():
  with hosts.Stop():
    print('held', flush=True)
    time.sleep(20)
cli.run(main)
""",
  sigterm='with hosts.Stop(): hold(20)',
)


def ended(code, signals):
  """(exit code, seconds after the first signal, standard output, standard error)."""
  words = [sys.executable, '-c', HELD_UP + code]
  streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  process = subprocess.Popen(words, cwd=tiny.ROOT, **streams)
  assert process.stdout.readline() == 'held\n'
  time.sleep(0.3)
  began = time.monotonic()
  for number in signals:
    process.send_signal(number)
    time.sleep(1.5)
  out, err = process.communicate(timeout=60)
  return process.returncode, time.monotonic() - began, out, err


@pytest.mark.parametrize(
  ('case', 'text', 'code'),
  [
    ('compiling', *interrupts.INTERRUPTED),
    ('first_step', *hosts.UNTRAINED),
    ('sigterm', *hosts.UNTRAINED),
  ],
)
def test_one_signal_ends_what_has_nothing_to_save_also_while_compiled_code_runs(case, text, code):
  number = signal.SIGTERM if case == 'sigterm' else signal.SIGINT
  found, seconds, _, err = ended(CASES[case], [number])
  assert found == code and seconds < 10 and err == f'\n{text}\n'
  assert hosts.UNTRAINED[1] == hosts.RESUMES


@pytest.mark.parametrize('case', ['command', 'run'])
def test_a_command_that_python_itself_ends_says_so_alike(case):
  code, _, _, err = ended(CASES[case], [signal.SIGINT])
  text, expected = interrupts.INTERRUPTED if case == 'command' else hosts.UNTRAINED
  assert code == expected and err == f'\n{text}\n'


def test_what_python_can_end_itself_is_cleaned_up():
  code, seconds, out, err = ended(CASES['python'], [signal.SIGINT])
  assert code != 0 and seconds < 10 and out == 'cleaned up\n' and 'KeyboardInterrupt' in err


def test_an_interruption_that_python_loses_ends_the_process_too():
  code, seconds, _, err = ended(CASES['lost'], [signal.SIGINT])
  text, expected = interrupts.INTERRUPTED
  assert code == expected and seconds < 15 and err.endswith(f'\n{text}\n')


def test_a_step_is_waited_for_and_saved_and_a_line_says_so_at_once():
  code, seconds, out, err = ended(CASES['saving'], [signal.SIGINT])
  assert code == 0 and out == 'stopped True\n' and seconds > 2
  assert err == interrupts.STOPPING.decode()


def test_a_second_signal_ends_a_step_at_once():
  code, seconds, _, err = ended(CASES['twice'], [signal.SIGINT] * 2)
  assert code == 130 and seconds < 10
  assert err == interrupts.STOPPING.decode() + '\nerror: interrupted\n'


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(interrupts, 'SILENT', 0.05)


def long_program(seed):
  """A function that takes longer than 0.05 seconds to compile."""

  def run(x):
    for number in range(80):
      x = jnp.sin(x + number + seed) @ x
    return x

  return run


def test_a_compilation_is_said_while_it_runs_and_what_runs_long_is_not(quick):
  said, run = [], jax.jit(long_program(os.getpid()))  # In no cache.
  with interrupts.compiling('the step', said.append):
    run(jnp.ones((4, 4))).block_until_ready()
    assert said == ['Compiling the step ...']
    run(jnp.ones((4, 4))).block_until_ready()
    time.sleep(0.2)
  run(jnp.ones((5, 5))).block_until_ready()
  with interrupts.compiling('nothing', None):
    run(jnp.ones((6, 6))).block_until_ready()
  assert said == ['Compiling the step ...']


def test_a_compilation_that_is_short_is_not_said():
  said = []
  with interrupts.compiling('the step', said.append):
    jax.jit(long_program(os.getpid() + 1))(jnp.ones((4, 4))).block_until_ready()
  time.sleep(0.1)
  assert not said


@pytest.mark.parametrize(
  'way, code',
  [
    ("hosts.leave('process 1 of 2 ended')", 1),
    ("hosts.Signs(Table(), 0, 1).fail('the disk is full')", 1),
    ('interrupts.end()', 130),
    ("interrupts.stopping(); print('goes on'); sys.exit(3)", 3),
  ],
)
def test_a_full_disk_under_stderr_keeps_no_process_from_ending(way, code):
  """A process that stayed would be waited for by all the others."""
  body = f"""
import os, sys
from cdd.core import hosts, interrupts
class Table:
  key_value_set = lambda self, *_, **__: None
  key_value_dir_get = lambda self, _: [('cdd/end/0', '')]
try:
  {way}
except OSError:
  os._exit(7)
"""
  with open('/dev/full', 'w') as full:
    ended = subprocess.run([sys.executable, '-c', body], stderr=full, timeout=60)
  assert ended.returncode == code
