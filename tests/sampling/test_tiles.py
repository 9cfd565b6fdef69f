"""Tiles: they cover what they are cut from, show no seam, and need less memory."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from cdd import sampling
from cdd.core.errors import UserError
from cdd.diffusion import tiles
from cdd.sampling import pipeline

RNG = np.random.default_rng(0)


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


def test_one_tile_is_no_tile(depth, condition):
  draw = lambda tile: depth('a', condition(), steps=2, guidance=3.0, tile=tile)
  np.testing.assert_allclose(draw(tiny.SIZE), draw(None), atol=1e-6)


def test_large_images_are_made_in_tiles(depth, condition):
  large = condition(size=(48, 64))
  tiled, whole = (depth('a', large, steps=2, tile=tile) for tile in (tiny.SIZE, None))
  assert tiled.shape == (1, 48, 64, 3)
  assert np.abs(tiled - whole).max() > 1e-4


@pytest.mark.slow
def test_tiles_leave_no_seam(monkeypatch):
  model = sampling.load('packaged:super_resolution')
  conditions = []
  for name in ('bridge', 'garden', 'friends', 'wood'):
    photo = Image.open(tiny.ROOT / f'cdd/assets/photos/{name}.jpg').convert('RGB')
    photo = photo.resize((320, 320 * photo.height // photo.width)).crop((40, 40, 232, 168))
    conditions.append(model.task.from_picture(photo.resize((24, 16), Image.BOX)))
  make = tiles.tiling

  class Abrupt(tiles.Tiling):
    def weights(self, scale):
      return tuple(np.ones((len(self.starts), scale * side), np.float32) for side in self.sides)

  abrupt = lambda grid, *, tile, overlap: Abrupt(*make(grid, tile=tile, overlap=0))

  def seam(tile, tiling):
    """Jumps across where abrupt tiles meet, over those across the other latents' edges."""
    monkeypatch.setattr(tiles, 'tiling', tiling)
    images = model._replace(draw=pipeline.compiled(model.networks))(
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
  model = sampling.load('packaged')
  networks, params = model.networks, model.params
  photo = Image.open(tiny.ROOT / 'cdd/assets/photos/bridge.jpg').convert('RGB')
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
