"""What files of every kind are read as, against NumPy."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from cdd.core.errors import UserError
from cdd.data import TASKS, images
from cdd.data.sources import pictures

RAMP = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(8, axis=0)
WORDS = np.round(65535 * RAMP).astype(np.uint16)
RNG = np.random.default_rng(0)


def saved(array, folder, name, **settings):
  """The path of an array or a picture, written."""
  picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
  picture.save(folder / name, **settings)
  return folder / name


def read(path, **settings):
  """[h, w, 3] in 0..1, as training reads a file at its full size."""
  return pictures.level(path, images.size(path), **settings) / np.float32(255)


def as_condition(path):
  """[h, w, 3] in 0..1, as sampling reads it."""
  return TASKS['super_resolution'](factor=1, degradation=dict(name='simple')).from_picture(
    images.opened(path)
  )


def chunk(kind, data):
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(words, *before, after=b''):
  """The bytes of a PNG of 16-bit grey, written out; chunks may stand before or after the pixels."""
  height, width = words.shape
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in words)
  head = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 16, 0, 0, 0, 0))
  parts = (head, *before, chunk(b'IDAT', zlib.compress(rows)), after, chunk(b'IEND', b''))
  return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


@pytest.mark.parametrize(
  ('name', 'array', 'settings'),
  [
    ('a.png', WORDS, {}),
    ('a.tif', WORDS, {}),
    ('lzw.tif', WORDS, dict(compression='tiff_lzw')),
    ('big_endian.tif', WORDS.astype('>u2'), {}),
    ('white_is_zero.tif', 65535 - WORDS, dict(tiffinfo={262: 0})),
    ('float.tif', RAMP, {}),
    ('white_is_zero_float.tif', 1 - RAMP, dict(tiffinfo={262: 0})),
    ('8_bits.png', np.round(255 * RAMP).astype(np.uint8), {}),
  ],
)
def test_a_ramp_of_any_depth_is_read_as_the_ramp(name, array, settings, tmp_path):
  path = saved(array, tmp_path, name, **settings)
  for made in (read(path), as_condition(path)):
    np.testing.assert_allclose(made, RAMP[..., None].repeat(3, 2), atol=0.002)
  depth = TASKS['depth']().from_picture(images.opened(path))
  np.testing.assert_allclose(depth, RAMP[..., None].repeat(3, 2), atol=0.002)


def test_a_tiff_of_12_bits_has_its_white_at_4095(tmp_path):
  levels = np.round(4095 * RAMP).astype(np.uint16)
  bits = np.unpackbits(levels.astype('>u2').view(np.uint8).reshape(8, 64, 2), axis=2)[..., 4:]
  data = np.packbits(bits.reshape(8, -1), axis=1).tobytes()
  fields = {256: 64, 257: 8, 258: 12, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: len(data)}
  entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in fields.items())
  head = b'II*\0' + struct.pack('<IH', 8, len(fields)) + entries + bytes(4)
  (tmp_path / 'a.tif').write_bytes(head.ljust(200, b'\0') + data)
  made = read(tmp_path / 'a.tif')
  np.testing.assert_allclose(made, RAMP[..., None].repeat(3, 2), atol=0.002)


@pytest.mark.parametrize(
  ('array', 'said'),
  [
    (255 * RAMP, r'from 0 to 255; they must lie in 0\.\.1'),
    (np.where(RAMP > 0.9, np.nan, RAMP), 'not all finite'),
    (WORDS.astype(np.int32), 'whole numbers from 0 to 65535, and which of them is white'),
  ],
)
def test_values_whose_white_is_not_known_are_refused_and_not_guessed(array, said, tmp_path):
  path = saved(array, tmp_path, 'a.tif')
  for reader in (read, as_condition):
    with pytest.raises(images.Unreadable, match=said):
      reader(path)


def test_a_depth_map_may_have_any_scale(tmp_path):
  for scale, kind in ((80, np.float32), (5000, np.int32), (3e38, np.float32)):
    path = saved((scale * RAMP).astype(kind), tmp_path, 'a.tif')
    made = TASKS['depth']().from_picture(images.opened(path))
    np.testing.assert_allclose(made[..., 2], RAMP, atol=0.001)


def test_a_float_that_resampling_took_a_little_beyond_white_is_clipped(tmp_path):
  made = read(saved(1.1 * RAMP - 0.05, tmp_path, 'a.tif'))
  np.testing.assert_allclose(made[..., 0], np.clip(1.1 * RAMP - 0.05, 0, 1), atol=0.002)


COLOURS = RNG.integers(0, 256, (8, 12, 3)).astype(np.uint8)
ALPHA = RNG.integers(0, 256, (8, 12)).astype(np.uint8)


def over(colours, alpha, background):
  share = alpha[..., None] / 255
  return (share * colours + (1 - share) * np.array(background)) / 255


@pytest.mark.parametrize('background', [(255, 255, 255), (0, 128, 255)])
@pytest.mark.parametrize('name', ['a.png', 'a.webp', 'a.tif'])
def test_what_is_transparent_is_composited_on_the_background(name, background, tmp_path):
  both = np.dstack([COLOURS, ALPHA])
  path = saved(both, tmp_path, name, **(dict(lossless=True, exact=True) if 'webp' in name else {}))
  made = read(path, background=background)
  np.testing.assert_allclose(made, over(COLOURS, ALPHA, background), atol=1.01 / 255)
  grey = COLOURS[..., :1].repeat(3, 2)
  path = saved(np.dstack([grey[..., 0], ALPHA]), tmp_path, 'grey.png')
  made = read(path, background=background)
  np.testing.assert_allclose(made, over(grey, ALPHA, background), atol=1.01 / 255)


def test_transparent_colours_of_a_palette_and_of_a_key_are_the_background(tmp_path):
  numbers = RNG.integers(0, 4, (8, 12)).astype(np.uint8)
  table = RNG.integers(0, 256, (4, 3)).astype(np.uint8)
  alpha = np.array([255, 0, 90, 255], np.uint8)
  picture = Image.fromarray(numbers).convert('P')
  picture.putpalette(table.tobytes())
  expected = over(table[numbers], alpha[numbers], (255, 255, 255))
  path = saved(picture, tmp_path, 'palette.png', transparency=alpha.tobytes())
  np.testing.assert_allclose(read(path), expected, atol=1.01 / 255)
  path = saved(picture, tmp_path, 'a.gif', transparency=1)
  expected = over(table[numbers], np.where(numbers == 1, 0, 255), (255, 255, 255))
  np.testing.assert_allclose(read(path), expected, atol=1e-6)
  path = saved(table[numbers], tmp_path, 'key.png', transparency=tuple(table[1].tolist()))
  np.testing.assert_allclose(read(path), expected, atol=1e-6)
  pa = picture.convert('PA')
  pa.putalpha(Image.fromarray(alpha[numbers]))
  expected = over(table[numbers], alpha[numbers], (255, 255, 255))
  np.testing.assert_allclose(np.asarray(images.rgb(pa)) / 255, expected, atol=1.01 / 255)


def test_the_key_of_16_bit_grey_is_the_background_and_in_a_depth_map_far(tmp_path):
  words = np.where(RAMP > 0.5, 7, np.maximum(WORDS, 300)).astype(np.uint16)
  (tmp_path / 'a.png').write_bytes(png(words, chunk(b'tRNS', struct.pack('>H', 7))))
  assert (read(tmp_path / 'a.png')[RAMP > 0.5] == 1).all()
  picture = images.opened(tmp_path / 'a.png')
  assert (TASKS['depth']().from_picture(picture)[RAMP > 0.5] == 0).all()
  picture = Image.fromarray(np.dstack([COLOURS[..., 0], 255 * (ALPHA > 99).astype(np.uint8)]))
  assert (TASKS['depth']().from_picture(picture)[ALPHA <= 99] == 0).all()


TURNED = {  # What EXIF's eight orientations make of an array, by NumPy.
  1: lambda a: a,
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: a.swapaxes(0, 1),
  6: lambda a: np.rot90(a, -1),
  7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
  8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize('orientation', TURNED)
def test_every_orientation_stands_upright_in_training_and_as_a_condition(orientation, tmp_path):
  lying = COLOURS // 2 + 60
  expected = TURNED[orientation](lying) / 255
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  xmp = f'<x:xmpmeta><tiff:Orientation>{orientation}</tiff:Orientation></x:xmpmeta>'.encode()
  paths = [
    saved(lying, tmp_path, 'a.png', exif=exif),
    saved(lying, tmp_path, 'a.tif', tiffinfo={274: orientation}),
    saved(lying, tmp_path, 'a.webp', exif=exif, lossless=True),
    saved(lying, tmp_path, 'xmp.webp', xmp=xmp, lossless=True),
  ]
  for path in paths:
    assert images.size(path) == expected.shape[1::-1]
    for made in (read(path), as_condition(path)):
      np.testing.assert_allclose(made, expected, atol=1e-6, err_msg=path.name)
  # Kinds of TIFF that Pillow garbles if it maps them into memory.
  for array in (COLOURS[..., 0], WORDS):
    path = saved(array, tmp_path, 'grey.tif', tiffinfo={274: orientation})
    expected = TURNED[orientation](array) / np.iinfo(array.dtype).max
    assert images.size(path) == expected.shape[::-1]
    for made in (read(path), as_condition(path)):
      np.testing.assert_allclose(made[..., 0], expected, atol=0.002)
  # 16 bits; the EXIF block stands behind the pixels.
  data = exif.tobytes().removeprefix(b'Exif\0\0')
  (tmp_path / 'late.png').write_bytes(png(WORDS, after=chunk(b'eXIf', data)))
  expected = TURNED[orientation](RAMP)
  assert images.size(tmp_path / 'late.png') == expected.shape[::-1]
  np.testing.assert_allclose(read(tmp_path / 'late.png')[..., 0], expected, atol=0.002)
  near = TASKS['depth']().from_picture(images.opened(tmp_path / 'late.png'))
  np.testing.assert_allclose(near[..., 0], expected, atol=0.002)


def test_a_picture_with_a_damaged_exif_block_is_read_as_it_lies(tmp_path):
  path = saved(COLOURS, tmp_path, 'a.png', exif=b'Exif\0\0MM nothing')
  np.testing.assert_array_equal(read(path) * 255, COLOURS)


def test_what_is_no_image_is_said_without_a_class_of_python(tmp_path):
  (tmp_path / 'a.png').write_text('no image')
  for path, said in (('a.png', 'no image'), ('b.png', 'no such file'), ('.', 'directory')):
    for reader in (images.opened, images.size):
      with pytest.raises(images.Unreadable, match=said) as error:
        reader(tmp_path / path)
      assert 'Error' not in str(error.value)


@pytest.mark.parametrize(
  ('value', 'expected'),
  [('white', (255, 255, 255)), ('#0080ff', (0, 128, 255)), ([1, 2, 3], (1, 2, 3))],
)
def test_a_background_is_a_name_a_code_or_three_numbers(value, expected):
  assert images.colour(value) == expected


@pytest.mark.parametrize('value', ['whiet', '#12345678', (1, 2), (0.5, 0.5, 0.5), (1, 2, 256), 3])
def test_a_background_that_is_no_colour_is_named(value):
  with pytest.raises(UserError, match='The background .* is no colour; choose'):
    images.colour(value)


def test_reading_a_picture_leaves_it_as_it_was():
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  file = io.BytesIO()
  Image.fromarray(COLOURS).save(file, 'PNG', exif=exif)
  picture = Image.open(file)
  first = np.asarray(images.rgb(picture))
  np.testing.assert_array_equal(first, np.asarray(images.rgb(picture)))
  np.testing.assert_array_equal(first, np.asarray(images.rgb(images.rgb(picture))))
