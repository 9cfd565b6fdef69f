"""Owns the networks of a run as functions of one flat tree: 'unet.…', 'adapter.…', 'vae.…', …"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdd.core import trees
from cdd.core.errors import check_multiple
from cdd.core.types import Array, Condition, Denoise, Params, Text
from cdd.diffusion import guidance, parametrizations, schedules, tiles
from cdd.models import text as texts
from cdd.models.guide import Guide
from cdd.models.strength import Strength
from cdd.models.time import NOTHING, Beside, Time


class Networks(NamedTuple):
  """The networks, each called with the tree of all parameters first.

  Attributes:
    adapted: apply function of the U-Net with its adapter (paths 'unet.*', 'adapter.*'), or None.
    vae: apply function of the autoencoder.
    text_encoder: apply function of the text encoder, or None.
    text_encoder_2: that of SDXL's second, or None.
    schedule: the noise schedule that the U-Net was trained with.
    prediction: what the U-Net's output means, in diffusers' terms ('v_prediction', ...).
    scale, shift: latents = (mean - shift) * scale.
    factor, channels: pixels per latent along a side; channels of the latents.
    reads: what the adapter reads of an example: its name -> its space, an entry of SPACES.
    beside: what the U-Net was trained to be given beside the time.
    has_strength: whether the strength of the adapter can be chosen.
    zero_empty: whether no prompt is states of zeros (SDXL), not those of the empty text.
  """

  adapted: Callable | None
  vae: Callable
  text_encoder: Callable | None
  text_encoder_2: Callable | None
  schedule: schedules.Schedule
  prediction: str
  scale: float
  shift: float
  factor: int
  channels: int
  reads: Mapping[str, str]
  beside: Beside = NOTHING
  zero_empty: bool = False
  has_strength: bool = False

  def latent_shape(self, images: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the latents of images [b, H, W, 3].

    Raises:
      UserError: a side is no multiple of `factor`; latents would not show what is left over.
    """
    check_multiple(images[1:3], self.factor, 'size')
    return (images[0], images[1] // self.factor, images[2] // self.factor, self.channels)

  def encode(self, params: Params, images: Array, *, tile: int | None = None) -> Array:
    """Images [b, H, W, 3] in [0, 1] -> latents [b, h, w, c]: the mode, scaled.

    Args:
      tile: the side of overlapping tiles of latents, for images too large to encode at once.

    Raises:
      UserError: as `latent_shape`.
    """
    check_multiple(images.shape[1:3], self.factor, 'size')

    def encode(part):
      return self.moments(params, 2 * part - 1)[0]

    return (_in_tiles(encode, images, tile, self.factor) - self.shift) * self.scale

  def decode(self, params: Params, latents: Array, *, tile: int | None = None) -> Array:
    """Latents [b, h, w, c] -> images [b, H, W, 3], about [0, 1]; not clipped, for gradients.

    Args:
      tile: the side of overlapping tiles of latents, for images too large to decode at once.
    """
    unscaled = latents / self.scale + self.shift
    return _in_tiles(partial(self.render, params), unscaled, tile, 1) / 2 + 0.5

  def moments(self, params: Params, images: Array) -> tuple[Array, Array]:
    """Images in [-1, 1] -> mean and log-variance of the latents, unscaled."""
    return self.vae(trees.select(params, 'vae'), 'encode', images)

  def render(self, params: Params, latents: Array) -> Array:
    """Unscaled latents -> images in [-1, 1], not clipped."""
    return self.vae(trees.select(params, 'vae'), 'decode', latents)

  def latents(
    self, params: Params, raw: dict[str, Array], name: str, *, tile: int | None = None
  ) -> Array:
    """The latents of a picture of a batch: encoded ahead (`{name}_latents`), or here."""
    ahead = raw.get(f'{name}_latents')
    return self.encode(params, raw[name], tile=tile) if ahead is None else ahead

  def condition(
    self, params: Params, raw: dict[str, Array], *, tile: int | None = None
  ) -> Condition:
    """What the adapter reads, each in its space and encoded in tiles if asked, and the text.

    Where 'condition_present' [b] is 0 there is no condition: everything read of it is zeros, as in
    the predictions without it that guidance needs (`Guide.views`).
    """

    def read(name, space):
      return _masked(SPACES[space](self, params, raw, name, tile), raw.get('condition_present'))

    arrays = {name: read(name, space) for name, space in self.reads.items()}
    return Condition(arrays, self.text(params, raw))

  def text(self, params: Params, raw: dict[str, Array]) -> Text:
    """What the text encoders make of tokens, as diffusers' pipelines feed it to the U-Net.

    `tokens` is [b, n], or [b, k, n] for prompts of k chunks, and then `weights` [b, k, n] may be
    there too.

    One encoder (SD 1.x, 2.x): its last states. Two (SDXL): the last but one of both, the projected
    state of the second, and the sizes. Where 'present' [b] is 0 there is no prompt (`zero_empty`).
    'states', and 'pooled' with them, are what was made of the tokens ahead.
    """
    if 'states' in raw:
      sizes = None if self.text_encoder_2 is None else self.sizes(raw)
      return Text(raw['states'], raw.get('pooled'), sizes)

    def read(name, end=''):
      encode = partial(getattr(self, name), trees.select(params, name), '__call__')
      return texts.read(encode, raw[f'tokens{end}'], raw.get(f'weights{end}'))

    first = read('text_encoder')
    if self.text_encoder_2 is None:
      text = Text(first.last)
    else:
      second = read('text_encoder_2', '_2')
      states = jnp.concatenate([first.penultimate, second.penultimate], axis=-1)
      text = Text(states, second.pooled, self.sizes(raw))
    present = raw.get('present') if self.zero_empty else None
    return text._replace(states=_masked(text.states, present), pooled=_masked(text.pooled, present))

  def sizes(self, raw: dict[str, Array]) -> Array:
    """'sizes' [b, 6] of a batch, or those of whole, uncropped images."""
    if 'sizes' in raw:
      return raw['sizes']
    shape = raw['image'].shape if 'image' in raw else raw['image_latents'].shape
    factor = 1 if 'image' in raw else self.factor
    height, width = (factor * side for side in shape[1:3])
    return jnp.tile(jnp.array([[height, width, 0, 0, height, width]], jnp.float32), (shape[0], 1))

  def denoiser(
    self,
    params: Params,
    c: Condition,
    *,
    guide: Guide | None = None,
    scale: Array | float | None = None,
    tiling: tiles.Tiling | None = None,
    strength: Strength | None = None,
  ) -> Denoise:
    """denoise(z, t, s) -> v with the condition bound; the hints are computed here, once.

    Args:
      strength: of the adapter, if it is not 1 at all times.
      guide: guidance, two or three predictions in one call of the network; None is one prediction.
      scale: of the guidance that the network is given as a number, one or [b, 1, 1, 1].
      tiling: predicts in tiles, with the condition cut alike.
    """
    if tiling is None:
      return Denoiser(self, params, guide, *self._bind(params, guide, c), strength, scale)

    def bind(start: Array) -> tuple[Condition, Any]:
      arrays = jax.tree.map(lambda array: tiles.crop(array, start, tiling), c.arrays)
      return self._bind(params, guide, c._replace(arrays=arrays))

    bounds = jax.lax.map(bind, jnp.asarray(tiling.starts))

    def denoise(z: Array, t: Array, s: Array | None) -> Array:
      def part(tile, bound):
        return Denoiser(self, params, guide, *bound, strength, scale)(tile, t, s)

      return tiles.blended(part, z, bounds, tiling)

    return denoise

  def _bind(self, params: Params, guide: Guide | None, c: Condition) -> tuple[Condition, Any]:
    """The conditions of all predictions, concatenated, and what the adapter makes of them."""
    conditions = c if guide is None else guidance.concatenate(guide.views(c))
    return conditions, self.adapted(params, 'hints', conditions)


class Denoiser(NamedTuple):
  """`Denoise`: a U-Net with its parameters, its conditions and their hints.

  Attributes:
    condition, hints: of all predictions that `guide` combines.
    strength: of the adapter; None is 1.
    scale: of the guidance that the network is given as a number; None is `Beside.scale`.
  """

  networks: Networks
  params: Params
  guide: Guide | None
  condition: Condition
  hints: Any
  strength: Strength | None = None
  scale: Array | float | None = None

  def __call__(self, z: Array, t: Array, s: Array | None) -> Array:
    names = ('conditional',) if self.guide is None else self.guide.names
    time = self.time(t, s)
    of_step = (time,) if self.strength is None else (time, self.strength.at(t))
    batch, of_step = (guidance.concatenate(dict.fromkeys(names, tree)) for tree in (z, of_step))
    bound = (batch, self.condition, self.hints)
    out = self.networks.adapted(self.params, 'with_hints', *bound, *of_step)
    parts = guidance.split(out, names)
    out = parts['conditional'] if self.guide is None else self.guide.combine(parts)
    level = self.networks.schedule(t)
    return parametrizations.to_v(self.networks.prediction, z, out, level)

  def time(self, t: Array, s: Array | None) -> Time:
    """What the network is given of the process."""
    beside, index = self.networks.beside, schedules.index(t)[:, 0, 0, 0]
    step = (t - s)[:, 0, 0, 0] if beside.counts and s is not None else None
    if not beside.guidance or (beside.counts and step is None):
      return Time(index, step)
    scale = beside.scale if self.scale is None else self.scale
    scale = jnp.ravel(jnp.asarray(scale, jnp.float32))
    return Time(index, step, jnp.broadcast_to(scale, index.shape))

  def rows(self, rows: slice) -> 'Denoiser':
    """The same for some of the examples; without guidance."""
    condition, hints = jax.tree.map(lambda leaf: leaf[rows], (self.condition, self.hints))
    return self._replace(condition=condition, hints=hints)

  def told(self, scale: Array) -> 'Denoiser':
    """The same network, given guidance scales [b, 1, 1, 1] where it is given a step."""
    return self._replace(scale=scale)

  def guided(self, scale: Array, negative: Text) -> 'Denoiser':
    """The same network with guidance [b, 1, 1, 1] away from a text, by two predictions."""
    guide, scales = Guide(negative, scale), dict(scale=self.scale, strength=self.strength)
    return self.networks.denoiser(self.params, self.condition, guide=guide, **scales)


def _masked(array: Array | None, present: Array | None) -> Array | None:
  """[b, ...] with zeros where `present` [b] is 0; as it is if either is None."""
  if array is None or present is None:
    return array
  return array * present.reshape(-1, *[1] * (array.ndim - 1)).astype(array.dtype)


def _latent(networks: Networks, params: Params, raw, name: str, tile: int | None) -> Array:
  """Latents as the U-Net has them, scaled."""
  return networks.latents(params, raw, name, tile=tile)


def _unscaled_latent(networks: Networks, params: Params, raw, name: str, tile: int | None) -> Array:
  """The autoencoder's mode."""
  return networks.latents(params, raw, name, tile=tile) / networks.scale + networks.shift


def _pixel(networks: Networks, params: Params, raw, name: str, tile: int | None) -> Array:
  """Pixels in [0, 1]."""
  del networks, params, tile
  return raw[name]


def _mask(networks: Networks, params: Params, raw, name: str, tile: int | None) -> Array:
  """One pixel for each latent, the nearest as PyTorch's interpolate finds it."""
  del params, tile
  return raw[name][:, :: networks.factor, :: networks.factor]


# What an adapter may read of a picture: its latents, the autoencoder's mode, pixels in [0, 1], or
# these at the size of the latents.
SPACES = dict(latent=_latent, mask=_mask, pixel=_pixel, unscaled_latent=_unscaled_latent)


def _in_tiles(function: Callable, array: Array, tile: int | None, factor: int) -> Array:
  """A half of the autoencoder, at once or in tiles that overlap by a quarter.

  Args:
    tile: the side of a tile in latents.
    factor: pixels of `array` per latent.
  """
  if tile is None:
    return function(array)
  grid = tuple(side // factor for side in array.shape[1:3])
  tiling = tiles.tiling(grid, tile=tile, overlap=tile // 4)
  return tiles.blended(lambda part, _: function(part), array, None, tiling)
