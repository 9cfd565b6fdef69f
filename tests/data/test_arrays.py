"""What files of depths, masks and pairs of pictures are read as, against NumPy and PyTorch."""

import io

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from cdd.core.errors import UserError
from cdd.data import arrays, images, numeric, sources

RNG = np.random.default_rng(0)
METRES = RNG.uniform(0.5, 80, (12, 16)).astype(np.float32)
WORDS = np.round(700 * METRES).astype(np.uint16)
COLOURS = RNG.integers(0, 256, (12, 16, 3)).astype(np.uint8)
HOLES = METRES.copy()
HOLES[2, 3], HOLES[5, 6], HOLES[7, 8], HOLES[9, 1] = np.nan, np.inf, 0, -1


def saved(array, path, **settings):
  (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **settings)
  return path


def exr(path, channels):
  OpenEXR = pytest.importorskip('OpenEXR')
  header = dict(compression=OpenEXR.ZIP_COMPRESSION, type=OpenEXR.scanlineimage)
  OpenEXR.File(header, channels).write(str(path))
  return path


def both(path, name):
  """An array read from a path, and the same from the file's bytes; the sizes of the headers."""
  of_path, of_bytes = (arrays.read(file, name) for file in (path, path.read_bytes()))
  np.testing.assert_array_equal(of_path, of_bytes)
  assert arrays.size(path, name) == arrays.size(path.read_bytes(), name) == of_path.shape[1::-1]
  return of_path


def written(folder):
  """(path, values) of depths in every kind of file."""
  yield saved(HOLES, folder / 'float.tif'), HOLES
  yield saved(HOLES, folder / 'packed.tif', compression='tiff_lzw'), HOLES
  yield saved(WORDS, folder / 'words.png'), WORDS
  yield saved(WORDS, folder / 'words.tif'), WORDS
  yield saved(WORDS.astype(np.int32), folder / 'ints.tif'), WORDS
  yield saved((WORDS // 256).astype(np.uint8), folder / 'bytes.png'), WORDS // 256
  grey = Image.fromarray((WORDS // 256).astype(np.uint8)).convert('RGB')
  yield saved(grey, folder / 'grey.png'), WORDS // 256
  shapes = (HOLES, HOLES[:, :, None], HOLES[None], HOLES[None, :, :, None])
  for number, array in enumerate(shapes):
    for kind in (np.float32, np.float64, np.float16):
      path = folder / f'{number}_{np.dtype(kind)}.npy'
      np.save(path, array.astype(kind))
      yield path, HOLES.astype(kind)
  np.savez(folder / 'one.npz', HOLES)
  yield folder / 'one.npz', HOLES
  np.savez_compressed(folder / 'named.npz', depth=HOLES, intrinsics=np.eye(3))
  yield folder / 'named.npz', HOLES
  yield exr(folder / 'z.exr', dict(Z=HOLES, R=METRES)), HOLES
  yield exr(folder / 'rgb.exr', dict(RGB=np.dstack([HOLES] * 3))), HOLES
  yield exr(folder / 'other.exr', {'V': HOLES}), HOLES


def test_a_depth_has_the_values_of_its_file_in_every_kind_of_file(tmp_path):
  for path, values in written(tmp_path):
    made = both(path, 'depth')
    assert made.dtype == np.float32, path
    np.testing.assert_array_equal(made, values.astype(np.float32), err_msg=path.name)


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_a_depth_of_16_bits_is_turned_as_its_exif_block_says(orientation, tmp_path):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  path = saved(WORDS, tmp_path / 'a.png', exif=exif)
  turned = np.rot90(WORDS, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
  np.testing.assert_array_equal(both(path, 'depth'), turned)
  np.testing.assert_allclose(both(path, 'mask'), turned / 65535, rtol=1e-6)


def test_a_mask_is_white_where_it_holds_and_not_where_it_is_transparent(tmp_path):
  holds = RNG.random((12, 16)) < 0.5
  soft = RNG.integers(0, 256, (12, 16)).astype(np.uint8)
  levels = (255 * holds).astype(np.uint8)
  palette = Image.fromarray(holds.astype(np.uint8)).convert('P')
  palette.putpalette([0, 0, 0, 255, 255, 255])
  for name, array, expected in (
    ('soft.png', soft, soft / 255),
    ('bit.png', Image.fromarray(levels).convert('1'), holds),
    ('rgb.png', np.dstack([levels] * 3), holds),
    ('palette.png', palette, holds),
    ('words.png', soft * np.uint16(257), soft / 255),
    ('float.tif', (soft / 255).astype(np.float32), soft / 255),
    ('alpha.png', np.dstack([np.full_like(soft, 255), soft]), soft / 255),
    ('rgba.png', np.dstack([levels] * 3 + [np.full_like(levels, 255)]), holds),
    ('bool.npy', holds, holds),
    ('float.npy', soft / 255, soft / 255),
    ('soft.npy', soft, soft / 255),
  ):
    path = tmp_path / name
    np.save(path, array) if path.suffix == '.npy' else saved(array, path)
    made = both(path, 'mask')
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
  'name, array, said',
  [
    ('mask', np.uint8([[0, 1], [1, 0]]), 'greatest value is 1 of 255'),
    ('mask', np.float32([[0, 7]]), r'values go from 0 to 7; they must lie in 0\.\.1'),
    ('mask', np.float32([[0, np.nan]]), 'not all finite'),
    ('mask', np.zeros((2, 2, 3)) + np.arange(3), 'its channels differ'),
    ('depth', np.zeros((2, 2, 3)) + np.arange(3), 'its channels differ'),
    ('depth', np.zeros(4), r'shape \(4,\); it must be \[height, width\]'),
    ('depth', np.zeros((0, 4)), r'shape \(0, 4\); it must be'),
    ('depth', np.zeros((2, 3, 40)), 'too large for a map of pixels'),
    ('depth', np.array([['a', 'b']]), 'of type <U1, which are no numbers'),
    ('depth', np.array([[1, None]]), 'allow_pickle'),
    ('depth', np.zeros((2, 2), np.complex64), 'which are no numbers'),
    ('image', np.zeros((2, 2, 4), np.uint8), '4 channels'),
  ],
)
def test_numbers_that_are_no_such_array_are_refused_with_the_reason(name, array, said, tmp_path):
  np.save(tmp_path / 'a.npy', array)
  with pytest.raises(images.Unreadable, match=said):
    arrays.read(tmp_path / 'a.npy', name)


def test_colours_may_be_numbers(tmp_path):
  for array in (COLOURS, COLOURS / 255, COLOURS * np.uint16(257)):
    np.save(tmp_path / 'a.npy', array)
    np.testing.assert_array_equal(both(tmp_path / 'a.npy', 'condition'), COLOURS)
  np.save(tmp_path / 'a.npy', COLOURS[..., 0])
  grey = np.repeat(COLOURS[..., :1], 3, 2)
  np.testing.assert_array_equal(both(tmp_path / 'a.npy', 'condition'), grey)


def test_damaged_and_missing_files_of_numbers_are_unreadable(tmp_path):
  np.save(tmp_path / 'a.npy', METRES)
  np.savez(tmp_path / 'a.npz', METRES)
  exr(tmp_path / 'a.exr', dict(Z=METRES))
  for name in ('a.npy', 'a.npz', 'a.exr'):
    whole = (tmp_path / name).read_bytes()
    for length in (0, 5, len(whole) // 3, len(whole) - 60):
      (tmp_path / name).write_bytes(whole[:length])
      with pytest.raises(images.Unreadable) as error:
        arrays.read(tmp_path / name, 'depth')
      assert str(error.value).isprintable() and 'Error' not in str(error.value)
    (tmp_path / name).unlink()
    for read in (arrays.size, arrays.read):
      with pytest.raises(images.Unreadable, match='no such file'):
        read(tmp_path / name, 'depth')
  np.savez(tmp_path / 'a.npz', left=METRES, right=METRES)
  with pytest.raises(images.Unreadable, match=r"holds \['left', 'right'\]; one must be 'depth'"):
    arrays.size(tmp_path / 'a.npz', 'depth')


def test_exr_files_without_their_package_say_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'OpenEXR', None)
  with pytest.raises(UserError, match=r"OpenEXR: pip install 'cdd-jax\[exr\]'"):
    arrays.read(tmp_path / 'a.exr', 'depth')


def test_a_header_that_promises_too_many_pixels_is_refused_before_they_are_read(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 90)  # The picture has 192, more than twice that.
  np.save(tmp_path / 'a.npy', METRES)
  for path in (
    tmp_path / 'a.npy',
    saved(COLOURS, tmp_path / 'a.png'),
    exr(tmp_path / 'a.exr', dict(Z=METRES)),
  ):
    for read in (arrays.size, arrays.read):
      with pytest.raises(images.Unreadable, match='too large|exceeds limit'):
        read(path, 'depth')


def resized(array, name, size):
  return arrays.resized(array, name, size)


@pytest.mark.parametrize('size', [(32, 24), (8, 6), (40, 30)])
def test_masks_and_whole_depths_are_resized_bilinearly_as_pytorch_does(size, tmp_path):
  whole = torch.from_numpy(METRES)[None, None]
  how = dict(size=size[::-1], mode='bilinear', align_corners=False, antialias=True)
  expected = torch.nn.functional.interpolate(whole, **how)[0, 0].numpy()
  np.testing.assert_allclose(resized(METRES, 'depth', size), expected, rtol=2e-5)
  mask = METRES / METRES.max()
  np.testing.assert_allclose(resized(mask, 'mask', size), expected / METRES.max(), atol=1e-5)


@pytest.mark.parametrize('size', [(32, 24), (8, 6), (23, 17)])
@pytest.mark.parametrize('hole', [np.nan, np.inf, 0.0, -1.0])
def test_no_depth_is_made_up_at_the_edge_of_a_hole(size, hole):
  depth = np.where(RNG.random((12, 16)) < 0.45, np.float32(hole), np.float32(5))
  made = resized(depth, 'depth', size)
  is_hole = np.isnan(made) if np.isnan(hole) else made == np.float32(hole)
  np.testing.assert_allclose(made[~is_hole], 5, rtol=1e-6)
  assert 0.05 < is_hole.mean() < 0.6
  # Beside a hole too, a depth lies between those of its neighbours.
  depth = np.where(RNG.random((12, 16)) < 0.3, np.float32(hole), METRES)
  made = resized(depth, 'depth', size)
  real = made[np.isfinite(made) & (made > 0)]
  assert real.min() >= METRES.min() - 1e-4 and real.max() <= METRES.max() + 1e-4


def test_aspect_ratios_agree_up_to_the_rounding_of_a_side():
  for size, other in (((640, 427), (384, 256)), ((512, 512), (64, 64)), ((500, 333), (577, 384))):
    assert arrays.alike(size, other) and arrays.alike(other, size)
  for size, other in (((640, 480), (384, 256)), ((512, 512), (64, 60)), ((16, 12), (12, 16))):
    assert not arrays.alike(size, other)


def test_one_pixel_is_too_small_for_an_image(tmp_path):
  saved(COLOURS[:1, :1], tmp_path / 'a.png')
  with pytest.raises(UserError, match='the largest of 1 is 1x1'):
    sources.image_folder(path=tmp_path, size=8)


def test_the_first_frame_of_an_animated_picture_is_read(tmp_path):
  frames = [Image.fromarray(np.full((12, 16, 3), level, np.uint8)) for level in (20, 200)]
  for name in ('a.gif', 'a.webp', 'a.png', 'a.tif'):
    settings = dict(lossless=True) if name == 'a.webp' else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **settings)
    assert abs(both(tmp_path / name, 'image').astype(int) - 20).max() <= 1, name


@pytest.mark.parametrize('name', ['image', 'edited_image', 'condition'])
def test_pictures_of_every_mode_are_rgb(name, tmp_path):
  picture = Image.fromarray(COLOURS)
  palette = picture.quantize(16)
  clear = picture.copy()
  clear.putalpha(0)
  for file, made, expected in (
    ('cmyk.jpg', picture.convert('CMYK'), None),
    ('palette.png', palette, np.asarray(palette.convert('RGB'))),
    ('clear.png', clear, np.full_like(COLOURS, 255)),
    ('grey.png', picture.convert('L'), np.asarray(picture.convert('L').convert('RGB'))),
  ):
    found = both(saved(made, tmp_path / file), name)
    assert found.dtype == np.uint8 and found.shape == (12, 16, 3)
    if expected is not None:
      np.testing.assert_array_equal(found, expected, err_msg=file)


def test_a_truncated_picture_of_any_array_is_unreadable():
  file = io.BytesIO()
  Image.fromarray(np.repeat(COLOURS[..., :1], 3, 2)).save(file, 'PNG')
  for name in arrays.ARRAYS:
    with pytest.raises(images.Unreadable):
      arrays.read(file.getvalue()[:200], name)


def test_formats_of_numbers_are_told_by_suffix_or_by_their_first_bytes(tmp_path):
  with (tmp_path / 'A.NPY').open('wb') as file:
    np.save(file, METRES)
  assert numeric.of(tmp_path / 'A.NPY') is numeric.of((tmp_path / 'A.NPY').read_bytes())
  assert numeric.of(tmp_path / 'a.png') is None and numeric.of(b'\x89PNG') is None
