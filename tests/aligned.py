"""Examples whose arrays say where every pixel lies, so that a crop shows whether they fit."""

import json

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32


def arrays(number=0):
  """name -> an array as it is written: image uint8 [h, w, 3] and others that follow from it."""
  rows, columns = np.mgrid[:HEIGHT, :WIDTH]
  image = np.stack([10 * rows, 7 * columns, np.full_like(rows, number)], -1).astype(np.uint8)
  return dict(
    image=image,
    edited_image=255 - image,
    condition=image[..., ::-1].copy(),
    depth=(100 * rows + columns + 1).astype(np.uint16),
    mask=(255 * (columns % 2)).astype(np.uint8),
  )


def save(path, array):
  """Writes an array as the suffix of a path says."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.npy':
    np.save(path, array)
  elif path.suffix == '.npz':
    np.savez(path, array)
  else:
    # Exactly, under any name: readers go by what is in a file.
    Image.fromarray(array).save(path, 'TIFF' if path.suffix == '.tif' else 'PNG')


def check(example, needs, size):
  """Asserts that an example has what is needed, all of one place; returns its number."""
  assert {*needs, 'caption', 'sizes'} == {*example}
  levels = 255 * example['image']
  assert example['image'].dtype == np.float32 and levels.shape == (*size, 3)
  rows, columns, number = np.round(levels).astype(int).transpose(2, 0, 1)
  rows, columns = np.round(rows / 10).astype(int), np.round(columns / 7).astype(int)
  np.testing.assert_allclose(levels[..., 0], 10 * rows, atol=1e-4)
  assert (np.diff(rows, axis=0) == 1).all() and (abs(np.diff(columns, axis=1)) == 1).all()
  expected = dict(
    edited_image=1 - example['image'],
    condition=example['image'][..., ::-1],
    depth=100 * rows + columns + 1,
    mask=columns % 2,
  )
  for name in {*needs} - {'image'}:
    assert example[name].dtype == np.float32
    np.testing.assert_allclose(example[name], expected[name], atol=1e-6, err_msg=name)
  return int(np.median(number))


def instruct_pix2pix(folder, prompts=40):
  """InstructPix2Pix's layout; the pairs of prompt n are 2n and 2n + 1. The settings to read it."""
  seeds = [[f'{number:07}', [2 * number, 2 * number + 1]] for number in range(prompts)]
  for name, pair in seeds:
    for number in pair:
      save(folder / name / f'{number}_0.jpg', arrays(number)['image'])
      save(folder / name / f'{number}_1.jpg', arrays(number)['edited_image'])
    words = dict(input=f'a {name}', output='b', edit=f'edit {name}')
    (folder / name / 'prompt.json').write_text(json.dumps(words))
  (folder / 'seeds.json').write_text(json.dumps(seeds))
  return dict(path=folder)


# Name of a source that reads files -> what writes some into a folder and gives its settings.
WRITTEN = dict(instruct_pix2pix=instruct_pix2pix)
