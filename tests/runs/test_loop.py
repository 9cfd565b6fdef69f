import time
from types import SimpleNamespace

import jax
import pytest
from ml_collections import ConfigDict

from cdd.runs import loop as loops
from cdd.training import chips, meter, profiler, sharding

CONFIG = ConfigDict(
  dict(log=dict(every=1), optimizer=dict(learning_rate=1e-3), method=dict(name='conditional'))
)


class Value(float):
  """A metric on a device that has, or has not, computed it yet."""

  done = True

  def is_ready(self):
    return self.done


def late_batches():
  while True:
    time.sleep(0.02)
    yield {}


@pytest.mark.parametrize('done', [True, False])
def test_a_late_batch_counts_as_waiting_only_if_the_device_has_nothing_to_do(done, tmp_path):
  value = Value(1.0)
  value.done = done
  logged = []
  experiment = SimpleNamespace(
    batches=late_batches(),
    mesh=sharding.make_mesh(),
    step=lambda state, batch: (state, dict(loss=value, grad_norm=value)),
  )
  log = SimpleNamespace(scalars=lambda step, values: logged.append(values))
  bar = SimpleNamespace(n=0, **dict.fromkeys(('update', 'set_postfix', 'write'), lambda _: None))
  with profiler.Profiler(tmp_path) as traces:
    loop = loops.Loop(experiment, CONFIG, log, bar, meter.Meter(step=0, images=1), traces)
    for step in range(1, 6):
      loop.step(None, step)
  share = logged[-1]['data_wait']
  assert share > 0.5 if done else share == 0
  said = loop.said_of_waiting()
  percent = float(said.removeprefix('Steps waited for data in ').partition('%')[0])
  shares = [row['data_wait'] for row in logged]
  assert 100 * min(shares) - 0.01 <= percent <= 100 * max(shares) + 0.01
  assert said.endswith('s of training.')


def test_a_run_without_a_timed_interval_says_nothing_of_waiting():
  speed = meter.Meter(step=0, images=1)
  assert loops.Loop(None, CONFIG, None, None, speed, None).said_of_waiting() == ''


def test_mfu_is_logged_where_the_peak_of_the_chips_is_known(monkeypatch, tmp_path):
  monkeypatch.setitem(chips.PEAK, jax.devices()[0].device_kind, 1e6)
  value, logged = Value(1.0), []
  experiment = SimpleNamespace(
    batches=late_batches(),
    mesh=sharding.make_mesh(),
    step=lambda state, batch: (state, dict(loss=value, grad_norm=value)),
    work=lambda state, batch: 2e4,
  )
  log = SimpleNamespace(scalars=lambda step, values: logged.append(values))
  bar = SimpleNamespace(n=0, **dict.fromkeys(('update', 'set_postfix', 'write'), lambda _: None))
  with profiler.Profiler(tmp_path) as traces:
    loop = loops.Loop(experiment, CONFIG, log, bar, meter.Meter(step=0, images=1), traces)
    for step in range(1, 5):
      loop.step(None, step)
  for row in logged:
    share = 2e4 * row['steps_per_second'] / (1e6 * len(jax.devices()))
    assert row['mfu'] == pytest.approx(share) and 0 < row['mfu'] < 2e4 * 50 / 1e6
