"""Whether an instruction was followed, on squares whose changes are known."""

import numpy as np

from cdd.metrics import edits, of_rows


def pictures():
  """(before, edited): a grey picture, and the same with one corner made red."""
  before = np.full((1, 4, 4, 3), 0.5)
  edited = before.copy()
  edited[:, :2, :2] = (1, 0, 0)
  return before, edited


def test_an_edit_is_a_success_if_the_changed_pixels_are_nearer_to_it_than_to_what_was():
  before, edited = pictures()
  made = before + 0.6 * (edited - before)
  not_made = before + 0.4 * (edited - before)
  elsewhere = made.copy()
  elsewhere[:, 2:, 2:] = 0  # Outside of the change, which another metric is about.
  for images, expected in ((made, 1), (not_made, 0), (before, 0), (edited, 1), (elsewhere, 1)):
    assert edits.success(images, edited, before) == [expected]


def test_an_edit_that_changes_nothing_counts_as_made():
  before, _ = pictures()
  assert edits.success(1 - before, before, before).tolist() == [True]


def test_what_was_to_stay_is_measured_where_nothing_was_to_change():
  before, edited = pictures()
  images = edited + np.where(edits.changed(edited, before), 0.3, 0.1)
  np.testing.assert_allclose(edits.kept(images, edited, before), 10 * np.log10(1 / 0.01), atol=1e-4)
  np.testing.assert_allclose(edits.kept(edited, edited, before), 80)
  assert not edits.kept(edited, 1 - before * 0, before).size  # All was to change.


def test_a_table_shows_what_was_measured():
  assert [*of_rows([dict(steps=1, psnr=1.0), dict(kept=2.0)])] == ['psnr', 'kept']
