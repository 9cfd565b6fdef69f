"""The depth task against the formula written out, and its guards."""

from fractions import Fraction

import numpy as np
import pytest

from cdd.data.scenes import Scenes
from cdd.data.tasks.depth import depth

RNG = None  # The task draws nothing.


def example(values):
  values = np.asarray(values, np.float32)
  return dict(image=np.zeros((*values.shape[:2], 3), np.float32), depth=values, caption='a cube')


def test_metric_depth_is_inverted_and_stretched_to_near_one_far_zero():
  metres = [[1.0, 2.0], [4.0, 8.0]]
  out = depth(depth_kind='metric').draw(example(metres), RNG)
  expected = [[(1 / d - 1 / 8) / (1 - 1 / 8) for d in row] for row in metres]
  np.testing.assert_allclose(out['condition'][..., 0], expected, atol=1e-6)
  assert out['condition'][0, 0, 0] == 1 and out['condition'][1, 1, 0] == 0


def test_inverse_depth_is_only_stretched():
  out = depth(depth_kind='inverse').draw(example([[-1.0, 0.0, 3.0]]), RNG)
  np.testing.assert_allclose(out['condition'][0, :, 0], [0, 0.25, 1])


def test_the_condition_is_three_equal_channels_of_float32():
  out = depth().draw(Scenes(size=(24, 32))[0], RNG)
  condition = out['condition']
  assert condition.shape == (24, 32, 3) and condition.dtype == np.float32
  assert set(out) == {'image', 'condition', 'caption'}
  assert (condition == condition[..., :1]).all()
  assert condition.min() == 0 and condition.max() == 1


def test_nearer_points_are_brighter():
  scene = Scenes(size=32)[3]
  condition = depth().draw(scene, RNG)['condition'][..., 0]
  order = np.argsort(scene['depth'], axis=None)
  assert (np.diff(condition.ravel()[order]) <= 0).all()


@pytest.mark.parametrize('kind', ['metric', 'inverse'])
@pytest.mark.parametrize('percentiles', [None, (2, 98)])
def test_a_constant_depth_gives_zeros_and_not_a_division_by_zero(kind, percentiles):
  out = depth(depth_kind=kind, percentiles=percentiles).draw(example(np.full((4, 4), 3.0)), RNG)
  assert (out['condition'] == 0).all()


@pytest.mark.parametrize('kind', ['metric', 'inverse', 'disparity'])
@pytest.mark.parametrize(
  'values',
  [
    [3e38, 1, 2, 3],
    [-3e38, 3e38, 0, 1],
    [1e-45, 1, 2, 3],
    [3e-39, 3e38, 1, 2],
    [1e-45, 2e-45, 0, 1],
  ],
)
def test_the_greatest_and_the_least_numbers_of_float32_are_stretched_as_others_are(kind, values):
  found = depth(depth_kind=kind).draw(example([values]), RNG)['condition'][0, :, 0]
  exact = [Fraction(float(np.float32(v))) for v in values]
  if kind != 'inverse':  # What is not positive is no measurement.
    exact = [v if v > 0 else None for v in exact]
  near = [1 / v if kind == 'metric' and v is not None else v for v in exact]
  known = [v for v in near if v is not None]
  low, high = min(known), max(known)
  expected = [0 if v is None else float((v - low) / (high - low)) for v in near]
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_percentiles_keep_one_outlier_from_flattening_the_rest():
  values = np.linspace(1, 2, 400).reshape(20, 20)
  values[0, 0] = 1000
  plain = depth(depth_kind='inverse').draw(example(values), RNG)['condition']
  robust = depth(depth_kind='inverse', percentiles=(2, 98)).draw(example(values), RNG)['condition']
  assert np.ptp(plain[1:]) < 0.01 and np.ptp(robust[1:]) > 0.9
  assert robust.min() == 0 and robust.max() == 1


def test_an_infinitely_far_sky_is_zero():
  out = depth().draw(example([[1.0, np.inf]]), RNG)
  np.testing.assert_array_equal(out['condition'][0, :, 0], [1, 0])


def test_a_trailing_channel_of_one_is_accepted():
  assert depth().draw(example(np.ones((4, 5, 1))), RNG)['condition'].shape == (4, 5, 3)


@pytest.mark.parametrize(
  ('kind', 'values', 'expected'),
  [
    ('metric', [1, 2, 4, 0, -3, np.nan, np.inf], [1, 0.5, 0.25, 0, 0, 0, 0]),
    ('inverse', [-1, 0, 3, np.nan, np.inf, -np.inf], [0, 0.25, 1, 0, 0, 0]),
    ('disparity', [2, 6, 10, 0, -1, np.nan, np.inf], [0, 0.5, 1, 0, 0, 0, 0]),
  ],
)
def test_what_is_no_measurement_is_far_and_changes_nothing_of_the_rest(kind, values, expected):
  out = depth(depth_kind=kind).draw(example([values]), RNG)
  np.testing.assert_allclose(out['condition'][0, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize('kind', ['metric', 'inverse', 'disparity'])
def test_a_depth_map_without_a_measurement_is_zeros_and_warned_of(kind, caplog):
  out = depth(depth_kind=kind, percentiles=(2, 98)).draw(example(np.full((4, 4), np.nan)), RNG)
  assert not out['condition'].any()
  assert f'of the kind {kind!r} has no measurement' in caplog.text


def test_bad_settings_and_bad_depths_are_named():
  with pytest.raises(ValueError, match="Unknown depth_kind 'disparty'; choose one of"):
    depth(depth_kind='disparty')
  with pytest.raises(ValueError, match='percentiles'):
    depth(percentiles=(98, 2))
  with pytest.raises(ValueError, match='must agree'):
    depth().draw(example(np.ones((4, 4))) | dict(depth=np.ones((4, 5))), RNG)
