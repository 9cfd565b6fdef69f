"""Random crops of examples that have more than an image: all arrays of one are cut alike."""

from typing import NamedTuple

import numpy as np
import pytest

from cdd.core.errors import UserError
from cdd.data import images, transforms


class Whole(NamedTuple):
  """An example whose every pixel says where it is and at which size it was read."""

  name: str
  caption: str
  sizes: list[tuple[int, int]]
  damaged: bool = False

  @property
  def original(self):
    return self.sizes[0]

  def arrays(self, size):
    if self.damaged:
      raise images.Unreadable('cut short')
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.full_like(rows, width)], axis=-1).astype(np.uint8)
    metres = (1000 * rows + columns).astype(np.float32)
    return dict(image=image, depth=metres, mask=(columns % 2).astype(np.uint8)[..., None])


def crops(*examples, length=60, **settings):
  settings = dict(size=24, seed=0, length=length, label='toys') | settings
  return transforms.RandomCrops(examples, **settings)


ONE = Whole('one', 'a ramp', [(120, 100), (60, 50)])


def test_an_image_and_its_depth_are_cut_and_flipped_together():
  source, corners, flipped = crops(ONE), set(), set()
  for index in range(len(source)):
    example = source[index]
    assert example['caption'] == 'a ramp'
    rows, columns, width = np.round(255 * example['image']).astype(int).transpose(2, 0, 1)
    assert example['image'].dtype == np.float32 and example['image'].shape == (24, 24, 3)
    np.testing.assert_array_equal(example['depth'], 1000 * rows + columns)
    np.testing.assert_allclose(255 * example['mask'][..., 0], columns % 2, atol=1e-4)
    # What SDXL reads: the picture's own size, the corner where it was cut, the crop's size.
    original, corner, target = example['sizes'].reshape(3, 2).astype(int).tolist()
    assert original == [100, 120] and target == [24, 24]
    mirrored = width[0, 0] - 1 - columns if columns[0, 0] > columns[0, 1] else columns
    assert corner == [rows[0, 0], mirrored[0, 0]]
    # A contiguous square of the picture as it was read at one of its sizes.
    assert (np.diff(rows, axis=0) == 1).all() and (np.diff(rows, axis=1) == 0).all()
    step = np.diff(columns, axis=1)
    assert (step == step[0, 0]).all() and abs(step[0, 0]) == 1
    assert (width == width[0, 0]).all() and width[0, 0] in (120, 60)
    flipped.add(bool(step[0, 0] < 0))
    corners.add((int(rows.min()), int(columns.min()), int(width[0, 0])))
  assert flipped == {True, False} and len(corners) > 50
  assert {width for *_, width in corners} == {120, 60}


def test_a_crop_depends_on_the_seed_and_its_number_alone():
  one, again, other = crops(ONE), crops(ONE), crops(ONE, seed=1)
  for index in (5, 0, 5):
    for name, array in one[index].items():
      assert np.array_equal(array, again[index][name])
  assert not all(np.array_equal(one[i]['depth'], other[i]['depth']) for i in range(3))


def test_a_damaged_example_is_passed_over_and_named():
  source = crops(ONE, Whole('two', '', [(120, 100)], damaged=True))
  assert {source[index]['caption'] for index in range(20)} == {'a ramp'}
  assert source.skipped == {'two': 'cut short'}
  with pytest.raises(UserError, match='No example of toys can be used, two being the last: cut'):
    crops(Whole('two', '', [(120, 100)], damaged=True))[0]


def test_an_index_beyond_the_length_is_an_error():
  with pytest.raises(IndexError, match=r'Crop 60 .* 0\.\.59'):
    crops(ONE)[60]
