"""Images from Python: seeds, batches, noise, conditions, and where a model may lie."""

import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image

from cdd import sampling
from cdd.core.errors import UserError
from cdd.data import TASKS
from cdd.diffusion.samplers import SAMPLERS, loop
from cdd.sampling.spread import noise

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('name', sorted(SAMPLERS))
def test_an_image_depends_on_its_own_seed_alone(plain, name):
  schedule = plain.networks.schedule
  denoise = lambda z, t, s: 0.3 * z + 0.001 * t
  settings = dict(schedule=schedule, times=(1000, 500, 0))
  draw = lambda z, keys: loop.run(SAMPLERS[name](), denoise, z, keys, **settings)
  z, keys = noise([7, 3, 9], (4, 4, 4))
  whole = draw(z, keys)
  for index, seed in enumerate([7, 3, 9]):
    np.testing.assert_array_equal(draw(*noise([seed], (4, 4, 4)))[0], whole[index])
  assert np.abs(whole[0] - whole[1]).max() > 1e-2
  _, others = noise([1, 2, 3], (4, 4, 4))
  assert np.array_equal(draw(z, others), whole) == (name in ('consistency', 'ddim'))


def test_the_batch_of_an_image_changes_no_more_than_rounding(plain):
  settings = dict(sampler='ancestral', steps=2, guidance=2.0)
  prompts, seeds = ['a red ball', 'two blue boxes', 'dusk'], [7, 3, 9]
  whole = plain(prompts, seeds=seeds, **settings)
  single = [plain(p, seeds=[seed], **settings) for p, seed in zip(prompts, seeds, strict=True)]
  # Random weights amplify the rounding of other batch sizes to 2e-6; the packaged models' is 4e-7.
  np.testing.assert_allclose(whole, np.concatenate(single), atol=1e-5)
  assert np.abs(whole[0] - whole[1]).max() > 1e-2


def test_one_of_each_goes_with_all_of_the_others(plain):
  images = plain('a red ball', seeds=[4, 5], steps=2)
  np.testing.assert_array_equal(images, plain(['a red ball'] * 2, seeds=4, steps=2))
  assert images.shape == (2, tiny.SIZE, tiny.SIZE, 3) and images.dtype == np.float32
  assert images.min() >= 0 and images.max() <= 1


def test_the_noise_can_be_given(plain):
  z, _ = noise([5], (16, 16, 4))
  given = plain('a', steps=2, seeds=0, latents=np.asarray(z))
  np.testing.assert_array_equal(given, plain('a', steps=2, seeds=5))
  with pytest.raises(UserError, match=r'latents are \(1, 8, 8, 4\); these images need'):
    plain('a', latents=np.zeros((1, 8, 8, 4)))


def test_a_run_an_export_and_its_arguments_give_the_same_model(run, depth, condition, tmp_path):
  export = tmp_path / 'export'
  shutil.copytree(run / 'export', export)
  again = sampling.load(export)
  assert (again.sampler, again.size) == ('consistency', (32, 32))
  np.testing.assert_array_equal(again('a', condition(), steps=1), depth('a', condition(), steps=1))


def test_the_depth_is_stretched_and_the_small_image_enlarged(tmp_path):
  ramp = np.linspace(1000, 9000, 16).reshape(4, 4).astype(np.uint16)
  Image.fromarray(ramp).save(tmp_path / 'depth.png')
  made = TASKS['depth']().from_picture(Image.open(tmp_path / 'depth.png'))
  np.testing.assert_allclose(made[..., 1], np.linspace(0, 1, 16).reshape(4, 4), atol=1e-4)
  small = Image.fromarray(RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8))
  task = TASKS['super_resolution'](factor=8, degradation=dict(name='simple'))
  made = task.from_picture(small)
  np.testing.assert_array_equal(
    made, np.float32(small.resize((48, 32), Image.Resampling.BICUBIC)) / 255
  )


def test_a_condition_is_given_exactly_where_it_is_needed(plain, depth, condition):
  with pytest.raises(UserError, match='This model needs a condition image'):
    depth('a')
  with pytest.raises(UserError, match='This model takes no condition image'):
    plain('a', condition())
  with pytest.raises(UserError, match='size of 30 x 32 pixels has to be a multiple of 4'):
    depth('a', condition(size=(30, 32)))
  with pytest.raises(UserError, match=r'The size \(16, 16\) is not that of the condition'):
    depth('a', condition(), size=(16, 16))


def test_a_folder_without_a_text_encoder_is_named(prior, tmp_path):
  mute = shutil.copytree(prior, tmp_path / 'mute')
  shutil.rmtree(mute / 'text_encoder')
  index = json.loads((mute / 'model_index.json').read_text())
  del index['text_encoder']
  (mute / 'model_index.json').write_text(json.dumps(index))
  with pytest.raises(UserError, match='no text-to-image pipeline: it has no text_encoder'):
    sampling.load(mute)


def test_a_seed_beyond_32_bits_is_refused():
  with pytest.raises(UserError, match='seed 99999999999 is out of range'):
    noise([0, 99999999999], (2, 2, 4))


def overflowing(plain, **changed):
  """The parameters with an autoencoder whose float16 overflows, or a text encoder of NaN."""
  factors = {'vae.decoder.conv_in.kernel': 1e7} | changed
  return {path: leaf * factors.get(path, 1) for path, leaf in plain.params.items()}


@pytest.mark.parametrize('upcast', [True, False])
def test_an_autoencoder_that_overflows_in_float16_is_computed_in_float32_or_named(
  upcast, prior, tmp_path
):
  folder = shutil.copytree(prior, tmp_path / 'prior')
  path = folder / 'vae/config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | dict(force_upcast=upcast)))
  model = sampling.load(folder, dtype='float16')
  model = model._replace(params=overflowing(model))
  if upcast:
    assert np.isfinite(model('a red ball', steps=1)).all()
  else:
    with pytest.raises(UserError, match='1 of 1 images .* are not finite: the U-Net, the adapter'):
      model('a red ball', steps=1)


def test_a_text_encoder_that_is_not_finite_is_named(plain):
  path = 'text_encoder.text_model.final_layer_norm.scale'
  broken = plain._replace(params=overflowing(plain, **{path: np.nan}))
  with pytest.raises(UserError, match='2 of 2 images .* are not finite: the text encoder'):
    broken(['a red ball', 'dusk'], steps=1)


def test_the_end_of_a_long_prompt_is_named(plain, caplog):
  plain('word ' * 100 + 'at its end', steps=1)
  (message,) = [r.getMessage() for r in caplog.records if 'too long' in r.getMessage()]
  assert message.endswith("at its end'.")
  caplog.clear()
  plain('a red ball', steps=1)
  assert not caplog.records
