"""Images from Python: seeds, batches, noise, conditions, and where a model may lie."""

import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image
from safetensors.numpy import load_file, save_file

from cdd import sampling
from cdd.core.errors import UserError
from cdd.data import TASKS
from cdd.diffusion.samplers import SAMPLERS, loop
from cdd.pretrained import adapter_folders, diffusers
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


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    (dict(prompts=3), 'Of prompts one is 3; it must be a text'),
    (dict(prompts=['a', 3]), 'Of prompts one is 3'),
    (dict(negative=3), 'Of negative one is 3; it must be a text or None'),
    (dict(seeds=1.5), 'Of seeds one is 1.5; it must be a whole number'),
    (dict(seeds='3'), "Of seeds one is '3'"),
    (dict(seeds=[]), '0 seeds were given'),
    (dict(steps=0), 'steps is 0; it must be 1 or more'),
    (dict(steps=1.5), 'steps is 1.5; it must be a whole number or None'),
    (dict(rescale=5.0), 'rescale is 5.0; it must be a share'),
    (dict(size=16), r'two whole numbers, height and width, not \(16,\)'),
    (dict(size=(16.5, 16)), r'two whole numbers, height and width, not \(16.5, 16\)'),
  ],
)
def test_what_is_given_in_python_is_checked_too(plain, given, said):
  with pytest.raises(UserError, match=said):
    plain(**dict(prompts='a') | given)


def test_numbers_of_numpy_are_seeds_as_others_are(plain):
  images = plain('a', seeds=np.int64(3), steps=1)
  np.testing.assert_array_equal(images, plain('a', seeds=np.array([3]), steps=1))


@pytest.mark.parametrize('values', [(0, 255), (-1, 1), (0, float('nan')), (0, float('inf'))])
def test_a_condition_of_other_numbers_than_0_to_1_is_refused(depth, values):
  low, high = values
  picture = np.full((tiny.SIZE, tiny.SIZE, 3), low, np.float32)
  picture[5] = high
  with pytest.raises(UserError, match=f'condition go from .* to {high:g}; they must be in 0..1'):
    depth('a', picture, steps=1)
  with pytest.raises(UserError, match='to 255; they must be in 0..1: divide pixels'):
    depth('a', Image.new('RGB', (tiny.SIZE, tiny.SIZE), 'white'), steps=1)


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
  with pytest.raises(
    UserError, match='size of 31 x 32 pixels has to be a multiple of 2; choose 32'
  ):
    plain('a', size=(31, 32))
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
    with pytest.raises(UserError, match='1 of 1 image .* not finite: the U-Net, the adapter'):
      model('a red ball', steps=1)


def test_a_text_encoder_that_is_not_finite_is_named(plain):
  path = 'text_encoder.text_model.final_layer_norm.scale'
  broken = plain._replace(params=overflowing(plain, **{path: np.nan}))
  with pytest.raises(UserError, match='2 of 2 images .* not finite: the text encoder'):
    broken(['a red ball', 'dusk'], steps=1)


def test_the_end_of_a_long_prompt_is_named(plain, caplog):
  plain('word ' * 100 + 'at its end', steps=1)
  (message,) = [r.getMessage() for r in caplog.records if 'too long' in r.getMessage()]
  assert message.endswith("at its end'.")
  caplog.clear()
  plain('a red ball', steps=1)
  assert not caplog.records


def with_fields(prior, folder, component, **fields):
  """A copy of the tiny prior with changed fields of a component's config.json; None: without."""
  shutil.copytree(prior, folder)
  path = folder / component / 'config.json'
  changed = json.loads(path.read_text()) | fields
  path.write_text(json.dumps({name: v for name, v in changed.items() if v is not None}))
  return folder


def test_a_size_is_that_of_the_unets_config_or_has_to_be_given(prior, tmp_path):
  wide = sampling.load(with_fields(prior, tmp_path / 'wide', 'unet', sample_size=[8, 16]))
  assert wide.size == (8 * wide.networks.factor, 16 * wide.networks.factor)
  assert wide('dusk', steps=1).shape == (1, *wide.size, 3)
  bare = sampling.load(with_fields(prior, tmp_path / 'bare', 'unet', sample_size=None))
  with pytest.raises(UserError, match='names no sample_size; give a size'):
    bare('dusk', steps=1)
  assert bare('dusk', steps=1, size=(16, 32)).shape == (1, 16, 32, 3)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (dict(block_out_channels=['16', '32']), "block_out_channels is .*'16'.* whole numbers, 1 or"),
    (dict(block_out_channels=[16, -32]), r'block_out_channels is \[16, -32\]'),
    (dict(block_out_channels=[16, 30]), 'block_out_channels has 30 .supported: multiples of'),
    (dict(attention_head_dim=0), 'attention_head_dim is 0 .supported: whole numbers'),
    (dict(attention_head_dim=3), 'attention_head_dim has 3 heads .supported: divisors of 16'),
    (dict(attention_head_dim=True), 'attention_head_dim is True'),
    (dict(sample_size='64'), "sample_size is '64'"),
    (dict(layers_per_block=0), 'layers_per_block is 0'),
  ],
)
def test_a_unet_of_impossible_sizes_is_named(fields, message, prior, tmp_path):
  folder = with_fields(prior, tmp_path / 'prior', 'unet', **fields)
  with pytest.raises(UserError, match=f'config.json: .*{message}'):
    sampling.load(folder)


def test_a_unet_that_reads_other_channels_than_any_of_ours_is_named(prior, tmp_path):
  folder = with_fields(prior, tmp_path / 'prior', 'unet', in_channels=7)
  path = folder / 'unet/diffusion_pytorch_model.safetensors'
  tensors = load_file(path)
  kernel = tensors['conv_in.weight']
  tensors['conv_in.weight'] = np.resize(kernel, (kernel.shape[0], 7, 3, 3))
  save_file(tensors, path)
  with pytest.raises(UserError, match='reads 7 channels.*it should read 4 and predict 4'):
    sampling.load(folder)


def test_a_lora_that_is_given_as_an_adapter_is_named_in_a_line(prior, tmp_path):
  names = [f'unet.down_blocks.{i}.attentions.0.to_q.lora_A.weight' for i in range(200)]
  save_file({name: np.zeros((4, 4), np.float32) for name in names}, tmp_path / 'lora.safetensors')
  spec = dict(name='controlnet', path=str(tmp_path / 'lora.safetensors'))
  unet = diffusers.load(prior).configs['unet']
  with pytest.raises(UserError, match='lora.safetensors holds a LoRA'):
    adapter_folders.start(spec, unet)
  other = {f'block.{i}.weight': np.zeros((4, 4), np.float32) for i in range(200)}
  save_file(other, tmp_path / 'lora.safetensors')
  with pytest.raises(UserError, match='does not fit what should be there: .* more') as caught:
    adapter_folders.start(spec, unet)
  assert len(str(caught.value)) < 2000
