"""Pictures of several shapes, encoded ahead and trained on, one shape to a batch."""

import json

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from PIL import Image
from test_prepare import losses, source

from cdd.core.errors import UserError
from cdd.runs import loop, prepare, streams


def in_buckets(prior, folder):
  """A run on pictures of two shapes, each of one colour, that are read in buckets."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  for number, (width, height) in enumerate([(48, 40)] * 4 + [(32, 40)] * 2):
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / f'{number}.png')
    (folder / f'{number}.txt').write_text(f'a {["wide", "tall"][width < height]} picture')
  config = tiny.load(f'super_resolution.py:tiny,data={folder}', prior)
  config.data.source.part = config.data.held_out.part = None
  config.data.source.size = config.data.held_out.size = ((32, 40), (40, 32))
  config.data.cache = 0
  config.evaluation = None
  return config


def test_examples_in_buckets_are_prepared_and_trained_on_in_batches_of_one_shape(prior, tmp_path):
  config, place = in_buckets(prior, tmp_path / 'pictures'), tmp_path / 'shards'
  prepare.run(config, place, count=9, shards=2, batch_size=4)
  assert json.loads((place / 'manifest.json').read_text())['buckets'] == [6, 3]
  examples = source(place)
  words = [examples[i]['caption'] for i in range(9)]
  shapes = [examples[i]['image_latents'].shape[:2] for i in range(9)]
  assert words == ['a wide picture'] * 6 + ['a tall picture'] * 3
  assert shapes == [(16, 20)] * 6 + [(20, 16)] * 3
  ahead = ConfigDict(config.to_dict())
  ahead.data.source = dict(name='prepared', path=str(place))
  ahead.steps = 4
  found = losses(ahead, tmp_path / 'run')
  assert len(found) == 4 and np.isfinite(found).all()
  manifest = json.loads((place / 'manifest.json').read_text())
  (place / 'manifest.json').write_text(json.dumps(dict(manifest, buckets=[6, 4])))
  with pytest.raises(UserError, match=r'its buckets are \[6, 4\], not whole numbers of 9'):
    source(place)


def test_a_cache_has_one_size_and_held_out_examples_the_first(prior, tmp_path):
  config = in_buckets(prior, tmp_path / 'pictures')
  batches = streams.held_out(config, tokenize=lambda text: {})
  assert {batch['image'].shape for batch in batches(4, 2)} == {(2, 32, 40, 3)}
  config.data.cache = 4
  with pytest.raises(UserError, match='data.cache=4 encodes examples of one size'):
    loop.run(config, tmp_path / 'a')
