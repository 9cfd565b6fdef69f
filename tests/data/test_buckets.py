"""Pictures of several shapes: each falls to the nearest, and every batch holds one."""

import itertools
import tarfile

import numpy as np
import pytest
from PIL import Image

from cdd.core.errors import UserError
from cdd.core.registry import make
from cdd.data import SOURCES, buckets, pipeline
from cdd.data.mixtures import divided, rounded
from cdd.data.skips import TooSmall

SIZES = ((16, 16), (12, 20), (20, 12))
# Of each shape (width, height): how many pictures.
PICTURES = {(40, 40): 6, (60, 36): 3, (36, 60): 3}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Pictures whose red grows from left to right and green downward; blue tells which it is."""
  place = tmp_path_factory.mktemp('shapes')
  shapes = [shape for shape, count in PICTURES.items() for _ in range(count)]
  for number, (width, height) in enumerate(shapes):
    rows, columns = np.mgrid[:height, :width]
    values = [255 * columns / (width - 1), 255 * rows / (height - 1), 0 * rows + 10 * number]
    image = np.stack(values, axis=-1).round().astype(np.uint8)
    Image.fromarray(image).save(place / f'{number:02d}.png')
    (place / f'{number:02d}.txt').write_text(f'picture {number}')
  return place


def source(folder, size=SIZES, **settings):
  settings = dict(name='image_folder', path=str(folder), size=size, flip=False) | settings
  return make(SOURCES, settings, 'source', ())


def tokenize(text):
  return dict(tokens=np.array([int(text.split()[-1] if text else -1)], np.int32))


def batches(of, **settings):
  settings = dict(batch_size=4, seed=0) | settings
  return pipeline.Batches(of, lambda example, rng: example, tokenize, **settings)


def test_a_picture_takes_the_nearest_shape_that_it_can_fill_and_just_fills_it():
  shapes = [(16, 16), (12, 20), (20, 12), (32, 32)]
  for width, height in itertools.product(range(12, 70, 5), repeat=2):
    fits = [(tall, wide) for tall, wide in shapes if width >= wide and height >= tall]
    if not fits:
      with pytest.raises(TooSmall, match='smaller than a crop of 16 or 20x12 or 12x20 or 32'):
        buckets.nearest(width, height, shapes)
      continue
    ratios = {shape: max(a := width * shape[0] / (height * shape[1]), 1 / a) for shape in fits}
    best = min(ratios.values())
    near = [shape for shape in fits if ratios[shape] < best * (1 + 1e-9)]
    found = buckets.nearest(width, height, shapes)
    assert found == max(near, key=lambda shape: shape[0] * shape[1])
    wide, tall = buckets.filling(width, height, found)
    assert tall >= found[0] and wide >= found[1] and (tall == found[0] or wide == found[1])
    assert abs(wide / width - tall / height) < 1 / min(width, height)


def test_every_batch_is_of_one_shape_and_each_shape_comes_as_often_as_its_pictures(folder):
  stream, shapes, seen = batches(source(folder)), [], set()
  for _ in range(24):
    batch = next(stream)
    shapes.append(batch['image'].shape[1:3])
    assert batch['image'].shape == (4, *shapes[-1], 3)
    for image, sizes, number in zip(batch['image'], batch['sizes'], batch['tokens'], strict=True):
      width, height = [shape for shape, n in PICTURES.items() for _ in range(n)][number[0]]
      assert round(255 * image[0, 0, 2]) == 10 * number[0]  # Each with its own caption.
      assert shapes[-1] == {1: (16, 16), 60 / 36: (12, 20), 36 / 60: (20, 12)}[width / height]
      assert sizes.tolist() == [height, width, 0, 0, *shapes[-1]]  # SDXL's, of the whole picture.
      # From edge to edge: of these shapes nothing is cut away.
      assert image[..., 0].min() < 0.05 and image[..., 0].max() > 0.95
      assert image[..., 1].min() < 0.05 and image[..., 1].max() > 0.95
      seen.add(int(number[0]))
  assert [shapes.count(size) for size in SIZES] == [12, 6, 6] and seen == set(range(12))
  # In turn, and not one bucket after another.
  assert len(set(shapes[:4])) == 3


def test_a_stream_of_buckets_resumes_and_is_the_same_over_workers_and_processes(folder):
  whole = batches(source(folder))
  expected = [next(whole) for _ in range(6)]
  again = batches(source(folder), workers=1)
  again.set_state(dict(next_example=2 * 4))
  for batch in expected[2:4]:
    found = next(again)
    assert all(np.array_equal(found[name], batch[name]) for name in batch)
  again.close()
  halves = [batches(source(folder), rows=rows) for rows in ([0, 1], [2, 3])]
  for batch in expected:
    parts = [next(half)['image'] for half in halves]
    assert np.array_equal(np.concatenate(parts), batch['image'])


def test_shares_are_whole_numbers_of_a_bounded_sum_and_divide_a_count_exactly():
  assert rounded([6, 3, 3]) == [2, 1, 1] and rounded([5]) == [1]
  many = rounded([1_234_567, 1, 400_000])
  assert min(many) == 1 and 990 < sum(many) < 1010 and abs(many[0] / many[2] - 3.0864) < 0.02
  for count, shares in ((10, [2, 1, 1]), (1, [1, 1]), (1000, many)):
    parts = divided(count, shares)
    assert sum(parts) == count
    exact = np.array(shares) * count / sum(shares)
    assert (np.abs(parts - exact) < 1).all()


@pytest.mark.parametrize(
  ('size', 'said'),
  [
    (((16, 16), 12), 'of several, each is .height, width.'),
    (((16, 16), (16, 16)), 'lists 2 sizes, of which 1 differ; at most 64, each once'),
    (((16, 16), (16, 0)), 'whole number, 1 or more'),
    (((16, 16), (16, 20, 3)), 'whole number, 1 or more'),
    (((100, 100), (90, 120)), 'large enough for a crop of 100x100 pixels: the largest of 12 is'),
  ],
)
def test_sizes_that_are_none_are_refused(folder, size, said):
  with pytest.raises(UserError, match=said):
    source(folder, size)


def test_a_picture_too_small_for_every_bucket_is_left_out_and_said(folder, tmp_path):
  for path in folder.glob('*.png'):
    Image.open(path).save(tmp_path / path.name)
  Image.new('RGB', (14, 14)).save(tmp_path / 'small.png')
  said = '14x14 pixels, smaller than a crop of 16 or 20x12 or 12x20'
  assert source(tmp_path, caption_column='').skipped == {'small.png': said}


def test_what_knows_no_headers_and_what_mixes_takes_one_size(folder, tmp_path):
  with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
    tar.add(folder / '00.png', '00.png')
  spec = dict(name='webdataset', path=str(tmp_path), size=SIZES)
  with pytest.raises(UserError, match='only image_folder takes several sizes, in a local folder'):
    make(SOURCES, spec, 'source', ())
  with pytest.raises(UserError, match='only image_folder takes several sizes, in a local folder'):
    make(SOURCES, dict(spec, name='image_folder', path='memory://shapes'), 'source', ())
  one = dict(name='image_folder', path=str(folder), size=SIZES)
  with pytest.raises(UserError, match='have one size each'):
    make(SOURCES, dict(name='mixture', sources=[one, one]), 'source', ())
