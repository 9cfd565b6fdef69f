"""What a run says of its speed, recomputed by hand on a clock that the tests move."""

import json
from types import SimpleNamespace

import jax
import pytest

from cdd.training import chips, meter


class Clock:
  """`time` of the meter."""

  def __init__(self):
    self.now = 1000.0

  def time(self):
    return self.now

  perf_counter = time


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(meter, 'time', clock)
  return clock


def test_a_row_divides_its_time_into_training_waiting_and_what_is_neither(clock):
  speed = meter.Meter(step=0, images=32)
  with speed.paused():
    clock.now += 30  # Compiling.
  clock.now += 10
  speed.waited(2)
  row = speed.read(5)
  assert row['steps_per_second'] == 5 / 10 and row['data_wait'] == 2 / 10
  assert row['images_per_second_per_chip'] == 32 * 5 / 10 / len(jax.devices())
  assert row['wall_seconds'] == 40 and row['goodput'] == 8 / 40
  assert row['host_memory_gib'] > 0.1 and 'mfu' not in row


def test_goodput_counts_pauses_and_what_a_crash_lost_but_not_as_training(clock, tmp_path):
  meter.start(tmp_path, clock.now)
  speed = meter.resumed(tmp_path, [], step=0, images=1)
  clock.now += 60
  kept = dict(step=6, **speed.read(6))
  clock.now += 30  # Trained, and lost with the process: no row has it.
  clock.now += 10  # Until it is started anew.
  meter.start(tmp_path, clock.now)
  speed = meter.resumed(tmp_path, [kept, dict(step=6, score=0.1)], step=6, images=1)
  clock.now += 100
  row = speed.read(16)
  assert row['wall_seconds'] == pytest.approx(200)
  assert row['goodput'] == pytest.approx((60 + 100) / 200)
  assert json.loads((tmp_path / 'started.json').read_text()) == dict(time=1000.0)


def test_a_row_without_a_new_step_repeats_the_speed_of_the_row_before(clock):
  speed = meter.Meter(step=3, images=1)
  clock.now += 4
  first = speed.read(5)
  again = speed.read(5)
  assert first['steps_per_second'] == again['steps_per_second'] == 0.5


def test_mfu_is_the_work_done_by_what_the_chips_could_do(clock, monkeypatch):
  monkeypatch.setattr(jax, 'devices', lambda: [device('TPU v5e', i) for i in range(4)])
  speed = meter.Meter(step=0, images=8)
  speed.flops = 197e12
  clock.now += 10
  row = speed.read(20)
  assert row['mfu'] == pytest.approx(2 / 4)  # Two steps a second, each the second of one chip.
  assert row['images_per_second_per_chip'] == 8 * 2 / 4


def device(kind, number, coords=None):
  return SimpleNamespace(device_kind=kind, id=number, coords=coords or (number, 0, 0))


def test_two_cores_of_a_chip_are_one_chip():
  cores = [device('TPU v3', i, (i // 2, 0, 0)) for i in range(8)]
  assert chips.count(cores) == 4 and chips.count(jax.devices()) == len(jax.devices())


def test_the_longest_name_that_a_device_begins_with_says_its_peak():
  peaks = {
    'TPU v5': 459e12,
    'TPU v5 lite': 197e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA A100-SXM4-40GB': 312e12,
    'NVIDIA L40': None,
    'cpu': None,
  }
  assert {kind: chips.peak(kind) for kind in peaks} == peaks


def test_the_peaks_of_tpus_are_those_that_jax_knows():
  from jax._src.pallas.mosaic import tpu_info

  known = 0
  for kind, ours in chips.PEAK.items():
    version = tpu_info.chip_version_from_device_kind(kind)
    if version and kind != 'TPU v3':  # Google's page says 123; jax has 140.
      cores = version.num_physical_tensor_cores_per_chip
      theirs = cores * tpu_info._get_tpu_info_impl(version, 1).bf16_ops_per_second
      assert ours == pytest.approx(theirs, rel=0.01), kind
      known += 1
  assert known >= 8
