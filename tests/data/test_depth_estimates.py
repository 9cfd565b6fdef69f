"""Depth maps of a folder by models of transformers of random weights, beside its own pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from cdd.core.errors import UserError
from cdd.data import SOURCES, depth_estimates


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A folder with a random DPT of a few channels."""
  torch.manual_seed(0)
  config = transformers.DPTConfig(
    hidden_size=16,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=32,
    patch_size=8,
    backbone_out_indices=[0, 1, 2, 3],
    neck_hidden_sizes=[8, 8, 8, 8],
    fusion_hidden_size=8,
    reassemble_factors=[4, 2, 1, 0.5],
    is_hybrid=False,
    use_auxiliary_head=False,
  )
  folder = tmp_path_factory.mktemp('dpt')
  transformers.DPTForDepthEstimation(config).save_pretrained(folder)
  size = dict(height=32, width=32)
  transformers.DPTImageProcessorPil(size=size, ensure_multiple_of=8).save_pretrained(folder)
  return folder


def fill(folder):
  rng = np.random.default_rng(0)
  for name in ('a', 'b'):
    pixels = rng.integers(0, 256, (20, 28, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((56, 40), Image.Resampling.BICUBIC).save(folder / f'{name}.png')
    (folder / f'{name}.txt').write_text(name)
  (folder / 'broken.png').write_bytes(b'no image')
  return folder


def test_every_image_gets_a_map_once_and_the_source_reads_it(model, tmp_path):
  folder = fill(tmp_path)
  estimator = depth_estimates.transformer(str(model))
  written, skipped = depth_estimates.estimate(folder, estimator)
  assert written == 2 and [*skipped] == ['broken.png']
  values = np.asarray(Image.open(folder / 'a.depth.png'))
  assert values.dtype == np.uint16 and values.shape == (40, 56)
  assert (values.min(), values.max()) == (0, 65535)
  assert depth_estimates.estimate(folder, estimator)[0] == 0  # They are there.
  example = SOURCES['image_folder'](('image', 'depth'), path=folder, size=32)[0]
  assert example['depth'].shape == (32, 32) and np.ptp(example['depth']) > 0


def test_a_map_is_that_of_the_reference_up_to_scale_and_shift(model):
  pixels = np.random.default_rng(1).integers(0, 256, (40, 56, 3)).astype(np.uint8)
  picture = Image.fromarray(pixels)
  network = transformers.DPTForDepthEstimation.from_pretrained(model).eval()
  processor = transformers.DPTImageProcessorPil.from_pretrained(model)
  with torch.no_grad():
    outputs = network(**processor(images=picture, return_tensors='pt'))
  found = processor.post_process_depth_estimation(outputs, target_sizes=[picture.size[::-1]])
  expected = found[0]['predicted_depth'].numpy()
  ours = depth_estimates.transformer(str(model))(picture)
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_model_and_no_folder_is_one_line(model, tmp_path):
  with pytest.raises(UserError, match='is no model that estimates depth') as error:
    depth_estimates.transformer(str(tmp_path))
  assert '\n' not in str(error.value)
  with pytest.raises(UserError, match='There is no folder'):
    depth_estimates.estimate(tmp_path / 'nowhere', None)
  with pytest.raises(UserError, match='There are no images'):
    depth_estimates.estimate(tmp_path, None)
  with pytest.raises(UserError, match='is not finite'):
    depth_estimates.levels(np.array([[np.nan]]), tmp_path / 'a.png')


def near(picture):
  """An estimate that rises from left to right."""
  return np.broadcast_to(np.arange(picture.width), picture.size[::-1])


def test_a_depth_of_any_layout_is_kept_and_not_estimated_again(tmp_path):
  for name in ('images/a.png', 'images/b.png', 'depth/a.png'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    Image.new('RGB', (20, 16)).save(tmp_path / name)
  assert depth_estimates.estimate(tmp_path, near) == (1, {})
  there = sorted(path.name for path in (tmp_path / 'images').iterdir())
  assert there == ['a.png', 'b.depth.png', 'b.png']
  rows = tmp_path / 'rows'
  rows.mkdir()
  for name in ('a.png', 'b.png', 'mine.png'):
    Image.new('RGB', (20, 16)).save(rows / name)
  listed = [dict(file_name='a.png', depth='mine.png', more=1), dict(file_name='b.png', more=2)]
  (rows / 'metadata.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in listed))
  assert depth_estimates.estimate(rows, near) == (1, {})
  assert not (rows / 'a.depth.png').exists() and (rows / 'b.depth.png').exists()


def test_of_two_pictures_whose_maps_would_be_one_file_the_second_is_skipped(tmp_path):
  Image.new('RGB', (20, 16)).save(tmp_path / 'a.jpg')
  Image.new('RGB', (40, 12)).save(tmp_path / 'a.png')
  for written in (1, 0):
    found, skipped = depth_estimates.estimate(tmp_path, near)
    assert found == written
    assert skipped == {'a.png': 'its map would be called as that of a.jpg'}
  assert Image.open(tmp_path / 'a.depth.png').size == (20, 16)


@pytest.mark.parametrize(('kind', 'values'), [('float16', (-6e4, 6e4)), ('float32', (-3e38, 3e38))])
def test_estimates_as_far_apart_as_their_type_allows_become_black_and_white(kind, values):
  found = depth_estimates.levels(np.array([[*values, 0]], kind), Path('a.png'))
  assert found.tolist() == [[0, 65535, 32768]]
