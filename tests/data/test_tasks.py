"""The tasks that need nothing but pictures: edges, holes, edits, and conditions that lie ready."""

import cv2
import numpy as np
import pytest
from PIL import Image

from cdd.core.errors import UserError
from cdd.core.registry import make
from cdd.data import TASKS
from cdd.data.scenes import Scenes
from cdd.data.tasks.canny import canny
from cdd.data.tasks.depth import depth
from cdd.data.tasks.inpaint import inpaint, random_mask
from cdd.data.tasks.instruct_edit import instruct_edit
from cdd.data.tasks.paired import paired
from cdd.data.tasks.task import lines_on_white

SCENE = Scenes(size=48)[5]
SIMPLE = dict(name='simple')


def rng(seed=0):
  return np.random.default_rng(seed)


def of(**spec):
  """A task as a config names it."""
  return make(TASKS, spec, 'task')


def test_canny_finds_the_edges_of_a_square_and_nothing_else():
  image = np.zeros((32, 32, 3), np.float32)
  image[8:24, 8:24] = 1
  condition = canny().draw(dict(image=image, caption=''), rng())['condition']
  inside, rows = np.zeros((32, 32), bool), np.where(condition[..., 0])
  inside[6:26, 6:26], inside[10:22, 10:22] = True, False
  assert condition[..., 0].any() and inside[rows].all() and not condition[16, 16].any()
  assert set(np.unique(condition)) == {0, 1} and (condition == condition[..., :1]).all()


def test_canny_draws_its_thresholds_and_equals_opencv_at_them():
  task, seen = canny(low=(50, 150), high=(200, 300)), rng(3)
  low, high = seen.uniform(50, 150), seen.uniform(200, 300)
  expected = cv2.Canny(np.round(255 * SCENE['image']).astype(np.uint8), low, high) > 0
  found = task.draw(SCENE, rng(3))['condition'][..., 0] > 0
  assert expected.any() and np.array_equal(found, expected)


def test_a_picture_becomes_its_edges_and_a_picture_of_edges_stays():
  task = canny(low=(100, 100), high=(200, 200))
  picture = Image.fromarray(np.round(255 * SCENE['image']).astype(np.uint8))
  edges = task.from_picture(picture)
  assert np.array_equal(edges, task.draw(SCENE, rng())['condition'])
  again = task.from_picture(Image.fromarray(np.uint8(255 * edges)))
  assert np.array_equal(again, edges)


def drawing(black_on_white):
  """A picture of a square's outline, as uint8 of 0 and 255."""
  lines = np.zeros((32, 32, 3), np.uint8)
  lines[8:24, 8], lines[8:24, 23], lines[8, 8:24], lines[23, 8:24] = (255,) * 4
  return 255 - lines if black_on_white else lines


def test_edges_that_are_black_on_white_are_inverted_with_a_warning_and_others_are_kept(caplog):
  expected = drawing(black_on_white=False) / 255
  assert np.array_equal(canny().from_picture(Image.fromarray(drawing(False))), expected)
  assert not caplog.records
  assert np.array_equal(canny().from_picture(Image.fromarray(drawing(True))), expected)
  (record,) = caplog.records
  assert f'its mean is {1 - expected.mean():.2f} of 0..1' in record.getMessage()


def test_ready_conditions_of_dark_lines_on_white_are_warned_of_once_and_inverted_if_asked(caplog):
  lines = drawing(black_on_white=True).astype(np.float32) / 255
  example = dict(image=np.zeros((32, 32, 3)), condition=lines, caption='a')
  plain, bright = paired(), paired()
  for number in range(30):  # A bright picture among others says nothing.
    bright.draw(example if number % 3 == 0 else dict(example, condition=lines / 3), rng())
  assert not caplog.records
  for _ in range(30):
    assert np.array_equal(plain.draw(example, rng())['condition'], lines)
  (record,) = caplog.records
  assert 'its mean is 0.94 of 0..1), and' in record.getMessage()
  assert "data.task=dict(name='paired', invert=True)" in record.getMessage()
  caplog.clear()
  inverse = make(TASKS, dict(name='paired', invert=True), 'task')
  assert np.array_equal(inverse.draw(example, rng())['condition'], 1 - lines)
  assert np.array_equal(inverse.from_picture(Image.fromarray(drawing(True))), 1 - lines)
  assert not caplog.records


@pytest.mark.parametrize('kind', ['colours', 'depth', 'edges', 'grey'])
def test_conditions_of_other_kinds_are_not_taken_for_dark_lines(kind):
  scene = SCENE['image']
  ramp = np.tile(np.linspace(0, 1, 48, dtype=np.float32)[:, None, None], (1, 48, 3))
  coloured = np.ones((8, 8, 3), np.float32) * np.float32([1, 1, 0.9])
  edges = drawing(False).astype(np.float32) / 255
  shown = dict(colours=coloured, depth=ramp, edges=edges, grey=np.full_like(scene, 0.5))
  assert not lines_on_white(shown[kind]) and not lines_on_white(scene)


@pytest.mark.parametrize('colour', ['white', 'black', 'grey', 'red'])
def test_a_picture_of_one_colour_has_no_edges(colour):
  for size in ((8, 8), (1, 1)):
    assert not canny().from_picture(Image.new('RGB', size, colour)).any()


def test_an_edit_draws_the_edited_picture_from_the_picture_and_the_instruction():
  example = Scenes(size=16, edits=True)[3]
  out = instruct_edit().draw(example, rng())
  assert np.array_equal(out['image'], example['edited_image'])
  assert np.array_equal(out['condition'], example['image'])
  assert out['caption'] == example['instruction'] != example['caption']
  plain = dict(image=example['image'], edited_image=example['edited_image'], caption='blue')
  assert instruct_edit().draw(plain, rng())['caption'] == 'blue'


def test_a_paired_condition_is_taken_as_it_is():
  example = dict(image=np.zeros((4, 4, 3)), condition=np.ones((4, 4, 3)), caption='a', mask=0)
  out = paired().draw(example, rng())
  assert out == {name: example[name] for name in ('image', 'condition', 'caption')}
  assert paired().needs == ('image', 'condition')


def test_a_hole_is_grey_and_the_rest_of_the_picture_is_kept():
  out = inpaint().draw(SCENE, rng())
  mask, condition = out['mask'], out['condition']
  assert mask.shape == (48, 48, 1) and mask.dtype == condition.dtype == np.float32
  hole = mask[..., 0] == 1
  assert set(np.unique(mask)) == {0, 1}
  assert (condition[hole] == 0.5).all()
  assert np.array_equal(condition[~hole], SCENE['image'][~hole])
  assert np.array_equal(out['image'], SCENE['image'])


@pytest.mark.parametrize('size', [(48, 64), (33, 20), (8, 8)])
def test_drawn_masks_cover_between_the_least_and_the_greatest_share(size):
  area = (0.1, 0.4)
  masks = [random_mask(size, rng(seed), area) for seed in range(100)]
  shares = np.array([mask.mean() for mask in masks])
  slack = max(size) / np.prod(size)  # A box is whole pixels.
  assert shares.min() >= area[0] - slack and shares.max() <= area[1]
  assert len({mask.tobytes() for mask in masks}) > 60


def test_a_whole_picture_is_masked_as_often_as_asked():
  task = inpaint(whole=0.25)
  whole = [task.draw(SCENE, rng(seed))['mask'].all() for seed in range(400)]
  assert abs(np.mean(whole) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)


def test_the_masks_of_a_source_are_black_and_white():
  task = inpaint(masks='source')
  assert task.needs == ('image', 'mask')
  mask = np.linspace(0, 1, 48 * 48, dtype=np.float32).reshape(48, 48)
  out = task.draw(dict(SCENE, mask=mask), rng())
  assert np.array_equal(out['mask'][..., 0], (mask >= 0.5).astype(np.float32))


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    (lambda: canny(low=(3, 1)), r'range low of canny is \(3, 1\)'),
    (lambda: inpaint(masks='painted'), "Unknown kind of masks 'painted'; choose one of"),
    (lambda: inpaint(area=(0.5, 0.1)), r'area \(0.5, 0.1\)'),
    (lambda: inpaint(whole=2), 'whole 2'),
    (lambda: depth(percentiles=(9, 3)), r'percentiles are \(9, 3\)'),
    (lambda: depth(percentiles=(1, 2, 3)), r'percentiles are \(1, 2, 3\)'),
    (lambda: of(name='depth', percentiles=5), 'is 5; it must be a tuple of which each is a number'),
    (lambda: of(name='inpaint', area=('a', 1)), "'area' of task 'inpaint' is .*each is a number"),
    (lambda: of(name='canny', low=(float('nan'), 1)), "'low' of task 'canny' is .*a number"),
    (lambda: of(name='super_resolution', factor=0, degradation=SIMPLE), 'factor is 0; it must be'),
    (lambda: of(name='super_resolution', factor=-2, degradation=SIMPLE), 'factor is -2; it must'),
  ],
)
def test_bad_settings_are_one_line(wrong, message):
  with pytest.raises(UserError, match=message) as error:
    wrong()
  assert '\n' not in str(error.value)


def test_a_crop_without_anything_of_its_mask_gets_a_drawn_one():
  task = inpaint(masks='source', area=(0.1, 0.4), whole=0.0)
  out = task.draw(dict(SCENE, mask=np.zeros((48, 48), np.float32)), rng())
  assert 0.05 < out['mask'].mean() <= 0.4
  assert np.array_equal(out['condition'] != SCENE['image'], np.repeat(out['mask'] > 0, 3, 2))
