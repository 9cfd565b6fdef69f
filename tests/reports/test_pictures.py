import io
import json

import numpy as np
import pytest
from PIL import Image

from cdd.reports import grid, pictures, stored

RNG = np.random.default_rng(0)


def test_a_grid_has_a_column_per_label_and_a_row_per_image():
  out = grid.grid({'a': np.zeros((3, 8, 8, 3)), 'b': np.ones((3, 8, 8, 3))}, scale=2)
  assert out.shape == (grid.TOP + 3 * 20 - 4, 2 * 16 + 4, 3)
  assert out[grid.TOP + 4, 4].tolist() == [0, 0, 0]
  assert out[grid.TOP + 4, 24].tolist() == [255, 255, 255]


def test_a_label_of_two_lines_makes_room_for_both():
  out = grid.grid({'a\nb': np.zeros((1, 8, 8, 3))})
  assert len(out) == 2 * grid.TOP + 16 and not out[2 * grid.TOP :].any()


def test_png_files_read_back(tmp_path):
  image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  grid.save_png(tmp_path / 'deep' / 'x.png', image)
  assert np.array_equal(np.asarray(Image.open(tmp_path / 'deep' / 'x.png')), image)


def test_webp_is_near_the_image():
  ramp = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
  read = np.asarray(Image.open(io.BytesIO(grid.encode(ramp, 'webp'))), float)
  assert np.abs(read - ramp).mean() < 3


def images():
  return RNG.uniform(size=(9, 8, 8, 3)).astype(np.float32)


def test_side_by_side_are_few_steps_of_ours_and_more_of_the_rival():
  shown = {('ours', n): images() for n in (1, 2, 4, 8)} | {('old', n): images() for n in (1, 4, 50)}
  batch = dict(image=images(), condition=images())
  first = pictures.side_by_side('ours', 'old', shown, batch)
  assert first.heading == 'ours side by side'
  assert first.alt.endswith(
    'Columns: condition, ours at 1 step, ours at 2 steps, ours at 4 steps, old at 1 step, '
    'old at 4 steps, old at 50 steps, truth.'
  )
  blocks = [batch['condition'], *(shown['ours', n] for n in (1, 2, 4))]
  blocks += [*(shown['old', n] for n in (1, 4, 50)), batch['image']]
  same = grid.grid({f'{i}\n': block[:8] for i, block in enumerate(blocks)})
  top = 2 * grid.TOP
  assert np.array_equal(first.image[top:], same[top:])


def test_without_the_rival_nothing_stands_side_by_side():
  shown, batch = {('ours', 1): images()}, dict(image=images())
  assert pictures.side_by_side('ours', 'old', shown, batch) is None
  assert pictures.side_by_side('ours', None, shown, batch) is None
  assert pictures.alone('old', shown, batch) is None


def test_alone_a_method_is_shown_at_all_its_steps():
  shown = {('a (b)', 1): images(), ('other', 1): images(), ('a (b)', 8): images()}
  found = pictures.alone('a (b)', shown, dict(image=images()))
  assert found.heading == 'a (b)' and 'condition' not in found.alt
  assert found.alt.endswith('Columns: a (b) at 1 step, a (b) at 8 steps, truth.')
  assert len(found.image) == 3 * grid.TOP + 8 * 20 - 4  # Labels of three lines.


def test_a_picture_is_saved_under_its_heading(tmp_path):
  image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  pictures.save(tmp_path, pictures.Picture('Ours (shipped) side by side', '', image))
  (path,) = tmp_path.iterdir()
  assert path.name == 'ours_shipped_side_by_side.png'


@pytest.fixture
def results():
  shown = {steps: np.round(255 * images()[:8]) / 255 for steps in (1, 50)}
  batch = dict(image=images(), condition=images())
  row = dict(steps=1, count=128, lpips=0.3)
  return stored.Stored([row], shown, stored.statistics(batch), 800, dict(commands=['a'])), batch


def test_stored_results_read_back_and_their_pictures_nearly(results, tmp_path):
  written, _ = results
  ramp = np.linspace(0, 1, 8 * 8)[:, None].reshape(8, 8, 1)
  smooth = {n: np.stack([ramp * rgb for rgb in RNG.uniform(size=(8, 3))]) for n in (1, 50)}
  written = written._replace(pictures=smooth)
  stored.write(tmp_path / 'x', written)
  read = stored.read(tmp_path / 'x')
  assert read._replace(pictures=None) == written._replace(pictures=None)
  assert [*read.pictures] == [1, 50]
  for steps, shown in read.pictures.items():
    np.testing.assert_allclose(shown, written.pictures[steps], atol=0.04)
  assert json.loads((tmp_path / 'x.json').read_text())['updates'] == 800


def test_results_of_other_examples_have_other_statistics(results):
  found, batch = results
  assert stored.same_examples(found, batch)
  assert stored.same_examples(found, {k: v[:2] for k, v in batch.items()})  # A smaller batch.
  assert stored.same_examples(found, {k: v + 1e-3 for k, v in batch.items()})  # Rounding.
  assert not stored.same_examples(found, dict(batch, image=batch['image'][::-1]))
  blurred = 0.5 * batch['condition'] + 0.5 * batch['condition'].mean((1, 2, 3), keepdims=True)
  assert not stored.same_examples(found, dict(batch, condition=blurred))
