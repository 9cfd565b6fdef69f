"""Sampling: the reference's pipelines, seeds, guidance, tiles, and the command line."""

import json
import shutil
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from cdd import sample
from cdd.core.errors import UserError
from cdd.core.types import Condition, Text
from cdd.diffusion import guidance, tiles
from cdd.diffusion.samplers import SAMPLERS
from cdd.models.networks import Guide
from cdd.pretrained import priors, trained
from cdd.runs import experiment as build
from cdd.sampling import pipeline as sampler

RNG = np.random.default_rng(0)
SETTINGS = dict(
  model='packaged',
  adapter=None,
  dtype='float32',
  prompt=['a'],
  negative=None,
  condition=None,
  seeds=['0'],
  guidance=1.0,
  image_guidance=None,
  rescale=0.0,
  steps=2,
  sampler=None,
  spacing=None,
  size=None,
  tile=None,
)


@pytest.fixture(scope='module')
def plain(prior):
  """The tiny prior."""
  return sample.load(prior)


@pytest.fixture(scope='module')
def runs(prior, tmp_path_factory):
  """Folders of a depth and a super-resolution run, as an export leaves them."""
  folders = {}
  for task in ('depth', 'super_resolution'):
    config = tiny.load(f'{task}.py:tiny', prior)
    loaded = priors.load(config.prior, None, ())
    _, brought = build.adapted_networks(config.model, loaded)
    params, _ = build.divide(config, {**loaded.params, **brought})
    rng = np.random.default_rng(1)
    params = {path: leaf + 0.02 * rng.normal(size=leaf.shape) for path, leaf in params.items()}
    folders[task] = tmp_path_factory.mktemp('runs') / task
    trained.save(params, folders[task] / 'export' / 'trained.safetensors')
    (folders[task] / 'config.json').write_text(config.to_json_best_effort())
  return folders


@pytest.fixture(scope='module')
def depth(runs):
  return sample.load(runs['depth'])


def condition(count=1, size=(tiny.SIZE, tiny.SIZE)):
  return np.random.default_rng(2).uniform(size=(count, *size, 3)).astype(np.float32)


@pytest.mark.parametrize('name', sorted(SAMPLERS))
def test_an_image_depends_on_its_own_seed_alone(plain, name):
  schedule = plain.networks.schedule
  denoise = lambda z, t: 0.3 * z + 0.001 * t
  draw = lambda z, keys: SAMPLERS[name](denoise, z, keys, schedule=schedule, times=(1000, 500, 0))
  z, keys = sampler.noise([7, 3, 9], (4, 4, 4))
  whole = draw(z, keys)
  for index, seed in enumerate([7, 3, 9]):
    np.testing.assert_array_equal(draw(*sampler.noise([seed], (4, 4, 4)))[0], whole[index])
  assert np.abs(whole[0] - whole[1]).max() > 1e-2
  _, others = sampler.noise([1, 2, 3], (4, 4, 4))
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
  z, _ = sampler.noise([5], (16, 16, 4))
  given = plain('a', steps=2, seeds=0, latents=np.asarray(z))
  np.testing.assert_array_equal(given, plain('a', steps=2, seeds=5))
  with pytest.raises(UserError, match=r'latents are \(1, 8, 8, 4\); these images need'):
    plain('a', latents=np.zeros((1, 8, 8, 4)))


class Spy:
  """An adapted network of closed form, and the calls that it saw."""

  def __init__(self):
    self.calls = []

  def __call__(self, params, method, *args):
    if method == 'hints':
      (c,) = args
      self.calls.append((method, c.text.states.shape[0]))
      return c.image
    z, c, *_, index = args
    self.calls.append((method, z.shape[0]))
    image = 0 if c.image is None else c.image.mean((1, 2, 3), keepdims=True)
    text = c.text.states.mean((1, 2))[:, None, None, None]
    return z * (1 + text) + 10 * image + 0.001 * index[:, None, None, None]


@pytest.fixture
def spied(plain):
  spy = Spy()
  return plain.networks._replace(adapted=spy, prediction='v_prediction'), spy


TEXT, NEGATIVE = (Text(jnp.full((2, 3, 4), value)) for value in (0.5, -0.25))
Z = jnp.asarray(RNG.normal(size=(2, 4, 4, 4)), jnp.float32)
T = jnp.full((2, 1, 1, 1), 401)


def closed(text, image=0.0):
  """What Spy predicts at Z, T."""
  return np.asarray(Z) * (1 + text) + 10 * image + 0.4


def test_guidance_leads_from_the_negative_prompt_to_the_prompt_in_one_call(spied):
  networks, spy = spied
  denoise = networks.denoiser({}, Condition(None, TEXT), guide=Guide(NEGATIVE, 3.0))
  expected = closed(-0.25) + 3 * (closed(0.5) - closed(-0.25))
  np.testing.assert_allclose(denoise(Z, T), expected, rtol=1e-5)
  denoise(Z, T)
  assert spy.calls == [('hints', 4), ('with_hints', 4), ('with_hints', 4)]


def test_no_guidance_costs_one_prediction(spied):
  networks, spy = spied
  np.testing.assert_allclose(networks.denoiser({}, Condition(None, TEXT))(Z, T), closed(0.5), 1e-6)
  assert spy.calls == [('hints', 2), ('with_hints', 2)]


def test_instruct_pix2pix_has_a_scale_for_the_image_and_one_for_the_text(spied):
  networks, spy = spied
  c = Condition(jnp.full((2, 4, 4, 4), 0.3), TEXT)
  denoise = networks.denoiser({}, c, guide=Guide(NEGATIVE, 7.5, image_scale=1.5))
  nothing, image, both = closed(-0.25), closed(-0.25, 0.3), closed(0.5, 0.3)
  expected = nothing + 7.5 * (both - image) + 1.5 * (image - nothing)
  np.testing.assert_allclose(denoise(Z, T), expected, rtol=1e-5, atol=1e-5)
  assert spy.calls[-1] == ('with_hints', 6)


def test_the_condition_image_goes_to_both_halves(spied):
  networks, _ = spied
  c = Condition(jnp.full((2, 4, 4, 4), 0.3), TEXT)
  out = networks.denoiser({}, c, guide=Guide(NEGATIVE, 3.0))(Z, T)
  expected = closed(-0.25, 0.3) + 3 * (closed(0.5, 0.3) - closed(-0.25, 0.3))
  np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_rescaling_gives_the_deviation_of_the_conditional_prediction_back():
  from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion as theirs
  from torch import tensor

  guided, text = (RNG.normal(size=(2, 4, 4, 4)).astype(np.float32) for _ in range(2))
  ours = guidance.rescaled(guided, conditional=text, amount=0.7)
  expected = theirs.rescale_noise_cfg(tensor(guided), tensor(text), guidance_rescale=0.7)
  np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5)
  whole = guidance.rescaled(guided, conditional=text, amount=1.0)
  np.testing.assert_allclose(np.std(whole[0]), np.std(text[0]), rtol=1e-5)


def test_joined_parts_come_back_under_their_names():
  parts = {name: jnp.full((2, 3), index) for index, name in enumerate('abc')}
  back = guidance.split(guidance.concatenate(parts), tuple(parts))
  assert all(np.array_equal(back[name], parts[name]) for name in parts)


@pytest.mark.parametrize('scale', [1, 4])
@pytest.mark.parametrize('grid', [(16, 24), (7, 40), (16, 16), (5, 5)])
def test_tiles_cover_the_grid_and_their_weights_add_up_to_one(grid, scale):
  tiling = tiles.tiling(grid, tile=16, overlap=6)
  total = np.zeros([scale * side for side in grid])
  height, width = (scale * side for side in tiling.sides)
  for (i, j), rows, columns in zip(scale * tiling.starts, *tiling.weights(scale), strict=True):
    assert i + height <= total.shape[0] and j + width <= total.shape[1]
    total[i : i + height, j : j + width] += np.outer(rows, columns)
  np.testing.assert_allclose(total, 1, atol=1e-6)
  gaps = [b - a for starts in (tiling.rows, tiling.columns) for a, b in pairwise(starts)]
  assert all(gap <= 16 - 6 for gap in gaps)


@pytest.mark.parametrize('scale', [1, 3])
def test_a_function_of_places_is_the_same_in_tiles(scale):
  z = jnp.asarray(RNG.normal(size=(2, 12, 20, 3)), jnp.float32)
  image = jnp.asarray(RNG.normal(size=(2, 24, 40, 1)), jnp.float32)
  tiling = tiles.tiling((12, 20), tile=8, overlap=3)
  cut = jax.lax.map(lambda start: tiles.crop(image, start, tiling), jnp.asarray(tiling.starts))
  large = lambda x: x.repeat(scale, axis=1).repeat(scale, axis=2)
  function = lambda z, image: large(jnp.sin(z[..., :2]) + image[:, ::2, ::2])
  out = tiles.blended(function, z, cut, tiling)
  np.testing.assert_allclose(out, function(z, image), atol=1e-5)


def test_an_overlap_of_a_whole_tile_is_refused():
  with pytest.raises(UserError, match='Tiles of 8 cannot overlap by 8; choose 0..7'):
    tiles.tiling((12, 20), tile=8, overlap=8)


def test_one_tile_is_no_tile(depth):
  draw = lambda tile: depth('a', condition(), steps=2, guidance=3.0, tile=tile)
  np.testing.assert_allclose(draw(tiny.SIZE), draw(None), atol=1e-6)


def test_large_images_are_made_in_tiles(depth):
  large = condition(size=(48, 64))
  tiled, whole = (depth('a', large, steps=2, tile=tile) for tile in (tiny.SIZE, None))
  assert tiled.shape == (1, 48, 64, 3)
  assert np.abs(tiled - whole).max() > 1e-4


@pytest.mark.slow
def test_tiles_leave_no_seam(monkeypatch):
  model = sample.load('packaged:super_resolution')
  conditions = []
  for name in ('bridge', 'garden', 'friends', 'wood'):
    photo = sample.picture(tiny.ROOT / f'cdd/assets/photos/{name}.jpg').convert('RGB')
    photo = photo.resize((320, 320 * photo.height // photo.width)).crop((40, 40, 232, 168))
    conditions.append(sample.as_condition(photo.resize((24, 16), Image.BOX), model.task))
  make = tiles.tiling

  class Abrupt(tiles.Tiling):
    def weights(self, scale):
      return tuple(np.ones((len(self.starts), scale * side), np.float32) for side in self.sides)

  abrupt = lambda grid, *, tile, overlap: Abrupt(*make(grid, tile=tile, overlap=0))

  def seam(tile, tiling):
    """Jumps across where abrupt tiles meet, over those across the other latents' edges."""
    monkeypatch.setattr(tiles, 'tiling', tiling)
    images = model._replace(draw=sampler.drawing(model.networks))(
      '', conditions, seeds=1, steps=2, tile=tile
    )
    columns = np.abs(np.diff(images, axis=2)).mean((0, 1, 3))
    rows = np.abs(np.diff(images, axis=1)).mean((0, 2, 3))
    edges = lambda jumps, at: [i for i in range(3, len(jumps), 4) if i not in at]
    pairs = ((columns, [63, 127]), (rows, [63]))
    return np.array([jumps[at].mean() / jumps[edges(jumps, at)].mean() for jumps, at in pairs])

  whole, blended, cut = seam(None, make), seam(64, make), seam(64, abrupt)
  print(f'columns, rows: whole {whole}, blended {blended}, abrupt {cut}')
  assert (blended < 1.15 * whole).all()
  assert (cut > 1.5 * whole).all()


def test_the_autoencoder_needs_less_memory_in_tiles():
  model = sample.load('packaged')
  networks, params = model.networks, model.params
  photo = sample.picture(tiny.ROOT / 'cdd/assets/photos/bridge.jpg').convert('RGB')
  images = jnp.asarray(np.float32(photo.resize((192, 128)))[None] / 255)

  def both(tile):
    def run(images):
      latents = networks.encode(params, images, tile=tile)
      return latents, networks.decode(params, latents, tile=tile)

    program = jax.jit(run).lower(images).compile()
    return program(images), program.memory_analysis().temp_size_in_bytes

  (whole, memory), (one, _), (tiled, less) = both(None), both(48), both(16)
  for expected, same, near in zip(whole, one, tiled, strict=True):
    np.testing.assert_allclose(same, expected, atol=1e-4)
    # A tile's group norms and attention see that tile alone.
    assert 0.98 < np.corrcoef(np.ravel(near), np.ravel(expected))[0, 1] < 1
  print(f'scratch memory {memory:,} at once, {less:,} in tiles')
  assert less < 0.5 * memory


def test_a_run_an_export_and_its_arguments_give_the_same_model(runs, depth, tmp_path):
  export = tmp_path / 'export'
  export.mkdir()
  for name in ('export/trained.safetensors', 'config.json'):
    (export / name.split('/')[-1]).write_bytes((runs['depth'] / name).read_bytes())
  again = sample.load(export)
  assert (again.sampler, again.size, again.task['name']) == ('consistency', (32, 32), 'depth')
  np.testing.assert_array_equal(again('a', condition(), steps=1), depth('a', condition(), steps=1))


def test_the_depth_is_stretched_and_the_small_image_enlarged(tmp_path):
  ramp = np.linspace(1000, 9000, 16).reshape(4, 4).astype(np.uint16)
  Image.fromarray(ramp).save(tmp_path / 'depth.png')
  made = sample.as_condition(sample.picture(tmp_path / 'depth.png'), dict(name='depth'))
  np.testing.assert_allclose(made[..., 1], np.linspace(0, 1, 16).reshape(4, 4), atol=1e-4)
  small = Image.fromarray(RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8))
  made = sample.as_condition(small, dict(name='super_resolution', factor=8))
  np.testing.assert_array_equal(
    made, np.float32(small.resize((48, 32), Image.Resampling.BICUBIC)) / 255
  )


def test_the_command_writes_images_their_settings_and_a_sheet(runs, depth, tmp_path):
  picture = condition()[0]
  Image.fromarray((picture * 255).astype(np.uint8)).save(tmp_path / 'depth.png')
  given = dict(
    model=str(runs['depth']), condition=[str(tmp_path / 'depth.png')], seeds=['3', '8'], steps=2
  )
  sample.run(SETTINGS | given | dict(out=str(tmp_path / 'out'), guidance=2.0))
  names = sorted(path.name for path in (tmp_path / 'out').iterdir())
  assert names == ['0000_3.png', '0001_8.png', 'grid.png', 'samples.jsonl']
  rows = [json.loads(line) for line in (tmp_path / 'out/samples.jsonl').read_text().splitlines()]
  assert [(row['file'], row['seed']) for row in rows] == [('0000_3.png', 3), ('0001_8.png', 8)]
  assert rows[1].items() >= dict(sampler='consistency', steps=2, guidance=2.0, prompt='a').items()
  made = sample.as_condition(sample.picture(tmp_path / 'depth.png'), depth.task)
  expected = depth('a', made, seeds=8, steps=2, guidance=2.0)[0]
  np.testing.assert_allclose(
    np.asarray(Image.open(tmp_path / 'out/0001_8.png')) / 255, expected, atol=0.51 / 255
  )


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
    (dict(size=['30', '32']), 'size of 30 x 32 pixels has to be a multiple of 4'),
    (dict(tile=30), 'tile of 30 pixels has to be a multiple of 4'),
    (dict(steps=2000), 'Cannot sample in 2000 steps; choose 1'),
    (dict(spacing='even'), "'even'.*leading"),
    (dict(image_guidance=1.5), 'image_guidance is for models that see the condition beside z'),
  ],
)
def test_a_mistake_is_said_in_a_line(wrong, said, prior, tmp_path):
  with pytest.raises(UserError, match=said):
    sample.run(SETTINGS | dict(model=str(prior), out=str(tmp_path / 'out')) | wrong)
  assert not (tmp_path / 'out').exists()


def test_a_condition_is_given_exactly_where_it_is_needed(plain, depth):
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
    sample.load(mute)
