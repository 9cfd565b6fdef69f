"""The command line of sampling, in this process: what it writes, and how mistakes are said."""

import json
import shutil

import numpy as np
import pytest
from PIL import ExifTags, Image
from safetensors.numpy import load_file, save_file

from cdd import sample
from cdd.core.errors import UserError
from cdd.data import TASKS

SETTINGS = dict(
  model='packaged',
  adapter=None,
  vae=None,
  step=None,
  dtype='float32',
  prompt=['a'],
  negative=None,
  condition=None,
  mask=None,
  seeds=['0'],
  guidance=1.0,
  image_guidance=None,
  rescale=0.0,
  steps=2,
  sampler=None,
  spacing=None,
  size=None,
  tile='auto',
  adapter_strength=1.0,
  adapter_start=0.0,
  adapter_end=1.0,
  long_prompts=False,
  weighted_prompts=False,
)


def test_the_command_writes_images_their_settings_and_a_sheet(run, depth, condition, tmp_path):
  picture = condition()[0]
  Image.fromarray((picture * 255).astype(np.uint8)).save(tmp_path / 'depth.png')
  given = dict(model=str(run), condition=[str(tmp_path / 'depth.png')], seeds=['3', '8'], steps=2)
  sample.run(SETTINGS | given | dict(out=str(tmp_path / 'out'), guidance=2.0))
  names = sorted(path.name for path in (tmp_path / 'out').iterdir())
  assert names == ['0000_3.png', '0001_8.png', 'grid.png', 'samples.jsonl']
  rows = [json.loads(line) for line in (tmp_path / 'out/samples.jsonl').read_text().splitlines()]
  assert [(row['file'], row['seed']) for row in rows] == [('0000_3.png', 3), ('0001_8.png', 8)]
  assert rows[1].items() >= dict(sampler='consistency', steps=2, guidance=2.0, prompt='a').items()
  made = depth.task.from_picture(sample.picture(tmp_path / 'depth.png'))
  expected = depth('a', made, seeds=8, steps=2, guidance=2.0)[0]
  np.testing.assert_allclose(
    np.asarray(Image.open(tmp_path / 'out/0001_8.png')) / 255, expected, atol=0.51 / 255
  )


def test_a_picture_is_painted_where_its_mask_is_white_or_where_it_is_transparent(tmp_path):
  task = TASKS['inpaint']()
  colours = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
  mask = np.zeros((8, 12), np.uint8)
  mask[2:5, 3:9] = 255
  Image.fromarray(colours).save(tmp_path / 'picture.png')
  Image.fromarray(mask).save(tmp_path / 'mask.png')
  Image.fromarray(np.dstack([colours, 255 - mask])).save(tmp_path / 'both.png')
  beside, alone = (str(tmp_path / name) for name in ('picture.png', 'both.png'))
  masked = sample.holed(beside, sample.picture(beside), str(tmp_path / 'mask.png'))
  found = sample.condition(beside, masked, task)
  hole = mask[..., None] > 0
  expected = np.where(hole, 0.5, colours / 255)
  np.testing.assert_allclose(found, np.dstack([expected, hole]), atol=1e-6)
  assert np.array_equal(sample.condition(alone, sample.picture(alone), task), found)
  with pytest.raises(UserError, match='picture.png does not suit .*nothing of it is transparent'):
    sample.condition(beside, sample.picture(beside), task)
  Image.new('L', (4, 4)).save(tmp_path / 'small.png')
  with pytest.raises(UserError, match='small.png and .* have to agree: 4x4 and 12x8'):
    sample.holed(beside, sample.picture(beside), str(tmp_path / 'small.png'))


@pytest.mark.parametrize(
  ('mask', 'said'),
  [
    (np.zeros((8, 12), np.uint8), 'white nowhere, .*: the brightest of its pixels is 0 of 255'),
    (np.ones((8, 12), np.uint8), 'the brightest of its pixels is 1 of 255'),
    (np.full((8, 12), 255, np.uint16), 'the brightest of its pixels is 1 of 255'),
    (np.full((8, 12), 255, np.int32), 'mask.tif cannot be read: .*which of them is white'),
    (np.full((8, 12), np.nan, np.float32), 'mask.tif cannot be read: .*not all finite'),
  ],
)
def test_a_mask_that_marks_nothing_is_named(mask, said, tmp_path):
  path = str(tmp_path / 'mask.tif')
  Image.fromarray(mask).save(path)
  with pytest.raises(UserError, match=said):
    sample.holed('picture.png', Image.new('RGB', (12, 8)), path)


def test_masks_of_any_depth_and_all_white_ones_are_read(tmp_path):
  half = np.zeros((8, 12), bool)
  half[:4] = True
  kinds = [half, half * np.uint8(255), half * np.uint16(65535), half * np.float32(1)]
  kinds += [np.dstack([half * np.uint8(255)] * 4), np.full((8, 12), 255, np.uint8)]
  for number, mask in enumerate(kinds):
    path = str(tmp_path / f'{number}.tif')
    Image.fromarray(mask).save(path)
    alpha = np.asarray(sample.holed('p', Image.new('RGB', (12, 8)), path).getchannel('A'))
    white = mask if mask.ndim == 2 else mask[..., 0]
    assert np.array_equal(alpha == 0, white > 0)


def test_a_picture_that_cannot_be_read_is_named_with_a_mask_too(tmp_path):
  paths = [str(tmp_path / name) for name in ('mask.png', 'picture.tif')]
  Image.new('L', (12, 8), 255).save(paths[0])
  Image.fromarray(np.full((8, 12), 255, np.int32)).save(paths[1])
  with pytest.raises(UserError, match='picture.tif cannot be read: .*which of them is white'):
    sample.holed(paths[1], sample.picture(paths[1]), paths[0])


def test_an_inpainting_model_of_the_reference_library_is_given_picture_and_mask(prior, tmp_path):
  folder = shutil.copytree(prior, tmp_path / 'inpainting')
  settings = json.loads((folder / 'unet/config.json').read_text())
  (folder / 'unet/config.json').write_text(json.dumps(settings | dict(in_channels=9)))
  weights = folder / 'unet/diffusion_pytorch_model.safetensors'
  tensors = load_file(weights)
  more = np.random.default_rng(0).normal(size=(tensors['conv_in.weight'].shape[0], 5, 3, 3))
  wider = np.concatenate([tensors['conv_in.weight'], more.astype(np.float32)], axis=1)
  save_file(dict(tensors, **{'conv_in.weight': wider}), weights)
  mask = np.zeros((32, 32), np.uint8)
  mask[:16] = 255
  drawn = []
  for name, holed in dict(upper=mask, lower=255 - mask).items():
    Image.fromarray(holed).save(tmp_path / f'{name}.png')
    Image.new('RGB', (32, 32), (200, 20, 20)).save(tmp_path / 'picture.png')
    given = dict(model=str(folder), condition=[str(tmp_path / 'picture.png')], steps=1)
    given |= dict(mask=[str(tmp_path / f'{name}.png')], out=str(tmp_path / name))
    sample.run(SETTINGS | given)
    drawn.append(np.asarray(Image.open(tmp_path / name / '0000_0.png'), np.float32))
  assert np.abs(drawn[0] - drawn[1]).max() > 1


@pytest.mark.parametrize(
  ('wrong', 'said'),
  [
    (dict(condition=['nowhere.png']), 'nowhere.png cannot be read'),
    (dict(condition=[__file__]), 'test_sample.py cannot be read'),
    (dict(sampler='ddmi'), "Unknown sampler 'ddmi'; choose one of .*'ddim'"),
    (dict(seeds=['1', '2'], prompt=['a'] * 3), '3 prompt, 2 seeds were given'),
    (dict(seeds=['one']), "--seeds should be whole numbers, not 'one'"),
    (dict(model='nowhere'), "no pretrained model at 'nowhere'"),
    (dict(model='packaged:dept'), "Unknown packaged model 'dept'; choose one of .*'depth'"),
    (dict(size=['31', '32']), 'size of 31 x 32 pixels has to be a multiple of 2'),
    (dict(tile='30'), 'tile of 30 pixels has to be a multiple of 4'),
    (dict(adapter_strength=float('nan')), 'adapter_strength is nan; it must be a number'),
    (dict(adapter_strength=0.5), 'are for an adapter beside the U-Net; this model has none'),
    (dict(tile='on'), "--tile=on should be 'auto', 'off' or a number"),
    (dict(steps=2000), 'Cannot sample in 2000 steps; choose 1'),
    (dict(spacing='even'), "'even'.*leading"),
    (dict(image_guidance=1.5), 'image_guidance is for models that see a condition'),
  ],
)
def test_a_mistake_is_said_in_a_line(wrong, said, prior, tmp_path):
  with pytest.raises(UserError, match=said):
    sample.run(SETTINGS | dict(model=str(prior), out=str(tmp_path / 'out')) | wrong)
  assert not (tmp_path / 'out').exists()


class Loaded:
  """A model that keeps the conditions it is called with."""

  def __init__(self, task):
    self.task = TASKS[task]()

  def resolved(self, settings):
    return settings

  def __call__(self, prompts, conditions, **settings):
    self.conditions = conditions
    return np.stack(conditions)


def test_the_condition_is_upright_and_of_any_depth(tmp_path, monkeypatch, capsys):
  ramp = np.linspace(0, 1, 32).reshape(1, 32).repeat(16, 0)
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6  # The left becomes the top.
  path = str(tmp_path / 'a.png')
  Image.fromarray(np.round(65535 * ramp).astype(np.uint16)).save(path, exif=exif)
  upright = np.rot90(ramp, -1)[..., None].repeat(3, 2)
  for task in ('text_to_image', 'depth'):
    model = Loaded(task)
    monkeypatch.setattr(sample, 'load', lambda *_, model=model, **__: model)
    sample.run(SETTINGS | dict(condition=[path], out=str(tmp_path / 'out')))
    np.testing.assert_allclose(model.conditions[0], upright, atol=0.002)
  assert 'Wrote 1 image, samples.jsonl' in capsys.readouterr().out
  written = np.asarray(Image.open(tmp_path / 'out/0000_0.png')) / 255
  np.testing.assert_allclose(written, upright, atol=0.004)


def test_a_condition_whose_white_is_not_known_is_named(tmp_path, monkeypatch):
  path = str(tmp_path / 'a.tif')
  Image.fromarray(np.full((16, 16), 7, np.float32)).save(path)
  monkeypatch.setattr(sample, 'load', lambda *_, **__: Loaded('text_to_image'))
  with pytest.raises(UserError, match=r'a.tif does not suit .*from 7 to 7; .* in 0\.\.1'):
    sample.run(SETTINGS | dict(condition=[path], out=str(tmp_path / 'out')))
