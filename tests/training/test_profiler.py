"""Traces of updates: those that are named, and the next ones after a signal."""

import os
import signal

import jax
import jax.numpy as jnp
import pytest

from cdd.runs import schema
from cdd.training import profiler


def run(folder, steps, asked=None, after=lambda step: None):
  """The steps of a loop; returns what was said."""
  said, double = [], jax.jit(lambda x: 2 * x)
  with profiler.Profiler(folder, asked, say=said.append) as traces:
    for step in steps:
      traces.before(step)
      out = double(jnp.ones(8))
      traces.after(step, out)
      after(step)
  return said


def traced(folder):
  """The folders of traces in which something is."""
  return sorted(path.name for path in folder.glob('*') if list(path.rglob('*.xplane.pb')))


def test_the_updates_that_are_named_are_traced(tmp_path):
  said = run(tmp_path, range(1, 6), '2:4')
  assert traced(tmp_path) == ['0000002'] and said == [f'Wrote a trace to {tmp_path}/0000002.']
  # What ui.perfetto.dev opens.
  assert list((tmp_path / '0000002').rglob('*.trace.json.gz'))


def test_a_run_that_goes_on_or_ends_within_them_traces_what_it_makes(tmp_path):
  run(tmp_path, range(7, 9), '5:20')
  assert traced(tmp_path) == ['0000007']
  run(tmp_path, range(30, 32), '5:20')
  assert traced(tmp_path) == ['0000007']


def test_a_signal_traces_the_next_updates_and_its_handler_goes_with_the_run(tmp_path):
  before, ended = signal.getsignal(signal.SIGUSR1), []
  tell = lambda step: step == 2 and os.kill(os.getpid(), signal.SIGUSR1)
  stop = jax.profiler.stop_trace
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax.profiler, 'stop_trace', lambda: (ended.append(True), stop()))
    run(tmp_path, range(1, 3 + profiler.COUNT), after=tell)
  assert traced(tmp_path) == ['0000003'] and ended == [True]
  assert signal.getsignal(signal.SIGUSR1) is before


def test_a_signal_outside_a_loop_does_not_end_the_process(tmp_path):
  before = signal.getsignal(signal.SIGUSR1)
  try:
    profiler.unheard()
    os.kill(os.getpid(), signal.SIGUSR1)
    run(tmp_path, range(1, 3))
    os.kill(os.getpid(), signal.SIGUSR1)
  finally:
    signal.signal(signal.SIGUSR1, before)
  assert not traced(tmp_path)


@pytest.mark.parametrize('wrong', ['5', '7:3', '5:5', 'a:b', '', 3])
def test_what_is_no_range_of_updates_is_refused(wrong):
  field = schema.FIELDS['log.profile']
  assert field.accepts('5:8') and field.accepts(None) and not field.accepts(wrong)
  assert field.described() == "'START:STOP', two updates, or None"
