"""Pictures of any size: padded conditions, tiles beyond the trained size, and what is refused."""

import numpy as np
import pytest
import tiny

from cdd.core.errors import UserError
from cdd.sampling import sizes

UNITS = dict(trained=(32, 32), multiple=4, factor=2)  # Those of the tiny model.


def messages(caplog):
  return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize('size', [(29, 31), (3, 5), (1, 32)])
def test_a_condition_of_any_size_is_mirrored_at_its_ends_and_the_image_cut_to_it(
  size, depth, condition, caplog
):
  given = condition(size=size)
  made = [-(-side // 4) * 4 for side in size]
  ends = [(0, new - old) for new, old in zip(made, size, strict=True)]
  padded = np.pad(given, ((0, 0), *ends, (0, 0)), mode='reflect')
  image = depth('a', given, steps=2, seeds=3)
  assert image.shape == (1, *size, 3)
  assert messages(caplog) == [
    f'The condition is padded to {made[0]} x {made[1]} pixels and the image cut to '
    f'{size[0]} x {size[1]}.'
  ]
  whole = depth('a', padded, steps=2, seeds=3)
  np.testing.assert_array_equal(image, whole[:, : size[0], : size[1]])
  assert len(caplog.records) == 1  # Nothing is said of a size that fits.


def test_beyond_the_trained_size_a_condition_is_seen_in_tiles_of_it(depth, condition, caplog):
  large = condition(size=(48, 40))
  draw = lambda **given: depth('a', large, steps=2, **given)
  image = draw()
  (message,) = messages(caplog)
  assert message.startswith('48 x 40 pixels are more than the 32 x 32 that the U-Net was trained')
  assert 'so tiles of 32 are used (--tile=off' in message
  np.testing.assert_array_equal(image, draw(tile=tiny.SIZE))
  assert np.abs(image - draw(tile=None)).max() > 1e-4
  assert len(caplog.records) == 1  # What is asked for is not said.


def test_without_a_condition_nothing_is_tiled_unless_asked(plain, caplog):
  draw = lambda **given: plain('a', size=(48, 32), steps=2, **given)
  image = draw()
  assert not caplog.records
  np.testing.assert_array_equal(image, draw(tile=None))
  assert np.abs(image - draw(tile=32)).max() > 1e-4


@pytest.mark.parametrize(
  ('size', 'tile', 'expected'),
  [
    ((32, 32), 'auto', ((32, 32), None)),
    ((31, 30), 'auto', ((32, 32), None)),
    ((33, 20), 'auto', ((34, 20), 32)),  # A side that is cut into tiles need only be of latents.
    ((33, 21), 'auto', ((34, 24), 32)),
    ((33, 21), None, ((36, 24), None)),
    ((65, 21), 16, ((66, 22), 16)),
  ],
)
def test_sides_are_padded_to_what_a_tile_or_the_unet_divides(size, tile, expected):
  planned = sizes.plan(size, conditional=True, tile=tile, **UNITS)
  assert (planned.made, planned.tile) == expected and planned.asked == size


def test_a_trained_size_that_the_unet_does_not_divide_gives_the_next_smaller_tile():
  units = UNITS | dict(trained=(23, 46))
  assert sizes.plan((64, 64), conditional=True, tile='auto', **units).tile == 20
  units = UNITS | dict(trained=None)
  assert sizes.plan((640, 640), conditional=True, tile='auto', **units).tile is None


@pytest.mark.parametrize(
  ('tile', 'said'),
  [
    ('on', "tile is 'on'; it must be 'auto', None or a whole number"),
    (0, 'tile is 0; it must be'),
    (True, 'tile is True; it must be'),
    (30, 'tile of 30 pixels has to be a multiple of 4; choose 32'),
  ],
)
def test_a_tile_that_is_none_is_refused(tile, said, plain):
  with pytest.raises(UserError, match=said):
    plain('a', tile=tile)


@pytest.mark.parametrize('name', ['guidance', 'image_guidance', 'rescale'])
def test_a_scale_that_is_no_number_is_refused(name, plain):
  for value in (float('nan'), float('inf'), '2'):
    with pytest.raises(UserError, match=f'{name} is {value!r}; it must be a number'):
      plain('a', **{name: value})
