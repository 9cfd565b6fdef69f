import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from cdd.core.errors import UserError
from cdd.data import pipeline
from cdd.training import checkpoint, integrity, sharding
from cdd.training import state as states
from cdd.training.optimizer import adamw

OPTIMIZER = adamw(steps=10, learning_rate=1e-2)


@pytest.fixture
def state():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  params = {'unet.w': draw(7, 5), 'adapter.mu': draw()}
  made = states.create(params, OPTIMIZER)
  # No two leaves alike, so that none can be restored into another's place.
  return jax.tree.map(lambda leaf: leaf + rng.integers(1, 9), made)


def abstract(state):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  return checkpoint.abstract(state, sharding.of_state(state, mesh))


def manager(folder, state, **settings):
  return checkpoint.Checkpoints(folder, abstract(state), **settings)


def test_a_restored_state_is_bitwise_the_saved_one(tmp_path, state):
  saved = manager(tmp_path, state)
  saved.save(3, state, dict(place=1))
  saved.close()
  restored, place = manager(tmp_path, state).restore()
  assert place == dict(place=1)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
    assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def test_a_state_without_a_target_of_its_own_survives_the_disk(tmp_path):
  state = states.create({'unet.w': jnp.arange(6.0)}, OPTIMIZER, has_copy=False)
  saved = manager(tmp_path, state)
  saved.save(3, state, {})
  saved.close()
  restored, _ = manager(tmp_path, state).restore()
  assert restored.target == {}
  assert np.array_equal(restored.evaluated['unet.w'], np.arange(6.0))


def test_the_last_two_and_the_best_are_kept(tmp_path, state):
  saved = manager(tmp_path, state, keep=2, best='score')
  scores = [0.5, 0.2, 0.9, None, 0.4, 0.3]
  for step, score in enumerate(scores, 1):
    saved.save(step, state, {}, None if score is None else dict(score=score))
  saved.close()
  steps = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
  assert steps == [2, 5, 6]
  assert manager(tmp_path, state).latest() == 6


def test_an_empty_folder_has_no_latest_step(tmp_path, state):
  assert manager(tmp_path / 'new', state).latest() is None


def test_the_place_of_the_data_iterator_survives_the_disk(tmp_path, state):
  source = [dict(image=np.full((2, 2, 3), i, np.float32), caption='') for i in range(10)]
  tokenize = lambda text: {}
  make = lambda: pipeline.Batches(source, lambda x, rng: x, tokenize, batch_size=2, seed=1)
  unbroken, broken = make(), make()
  for _ in range(7):  # Into the second epoch.
    next(unbroken), next(broken)
  saved = manager(tmp_path, state)
  saved.save(7, state, broken.get_state())
  saved.close()
  resumed = make()
  resumed.set_state(manager(tmp_path, state).restore()[1])
  for _ in range(6):
    np.testing.assert_array_equal(next(resumed)['image'], next(unbroken)['image'])


def test_the_largest_array_may_always_be_written():
  array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  assert checkpoint.in_flight([array(), array(10, 10)]) == 1
  assert checkpoint.in_flight([array(3, 250_000_000), array(10)]) == 4


def largest(folder):
  """The file of a checkpoint that holds the arrays."""
  return max((path for path in folder.rglob('*') if path.is_file()), key=lambda p: p.stat().st_size)


def flip(folder):
  data = bytearray(largest(folder).read_bytes())
  data[len(data) // 2] ^= 1
  largest(folder).write_bytes(data)


def cut(folder):
  path = largest(folder)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_metadata(folder):
  path = folder / 'state' / '_METADATA'
  path.write_bytes(path.read_bytes()[:50])


DAMAGES = dict(
  flipped=flip,
  cut=cut,
  deleted=lambda folder: largest(folder).unlink(),
  zeroed=lambda folder: largest(folder).write_bytes(bytes(largest(folder).stat().st_size)),
  metadata=cut_metadata,
  state=lambda folder: shutil.rmtree(folder / 'state'),
  data=lambda folder: shutil.rmtree(folder / 'data'),
)


@pytest.fixture
def two(tmp_path, state):
  """A folder with the checkpoints of steps 1 and 2."""
  saved = manager(tmp_path, state)
  for step in (1, 2):
    saved.save(step, state.replace(step=jnp.int32(step)), dict(place=step))
  saved.close()
  return tmp_path


@pytest.fixture
def warnings(monkeypatch):
  said = []
  monkeypatch.setattr(logging, 'warning', lambda text, *values: said.append(text % values))
  return said


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(damage, two, state, warnings):
  DAMAGES[damage](two / '2')
  resumed = manager(two, state)
  restored, place = resumed.restore()
  assert int(restored.step) == 1 and place == dict(place=1)
  (line,) = warnings
  assert '/2 is damaged: ' in line and 'Resuming from that of step 1.' in line
  resumed.save(2, state, dict(place=3))  # What was damaged does not stand in its way.
  resumed.close()
  assert sorted(path.name for path in two.iterdir()) == ['1', '2', 'damaged_2']
  assert manager(two, state).restore()[1] == dict(place=3)


def test_a_damaged_checkpoint_without_checksums_is_noticed_where_it_cannot_be_read(
  two, state, warnings
):
  (two / '2' / integrity.NAME).unlink()
  cut_metadata(two / '2')
  assert manager(two, state).restore()[1] == dict(place=1)
  assert len(warnings) == 1


def test_an_empty_checkpoint_is_said_and_does_not_count(two, state, warnings):
  before = checkpoint.steps(two)
  (two / '99').mkdir()
  assert checkpoint.steps(two) == before and checkpoint.newest(two) == before[-1] < 99
  assert manager(two, state).restore()[1] == dict(place=2)
  (line,) = warnings
  assert '/99 is damaged: it is empty.' in line


def test_no_intact_checkpoint_is_an_error_that_says_so_and_changes_nothing(two, state, warnings):
  cut(two / '1'), flip(two / '2')
  with pytest.raises(UserError, match='None of the checkpoints in .* is intact .2: .*; 1: ') as it:
    manager(two, state).restore()
  assert '\n' not in str(it.value) and not warnings
  assert sorted(path.name for path in two.iterdir()) == ['1', '2']
