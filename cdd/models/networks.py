"""Owns the networks of a run as functions of one flat tree: 'unet.…', 'adapter.…', 'vae.…', …"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdd.core import trees
from cdd.core.types import Array, Condition, Network, Params, Text
from cdd.diffusion import guidance, parametrizations, schedules, tiles


class Guide(NamedTuple):
  """What a prediction is guided away from, and how far.

  Attributes:
    negative: the text of the unconditional prediction: the empty prompt, or a negative one.
    scale: from there towards the prompt; 1 is no guidance.
    image_scale: from no condition image towards it (InstructPix2Pix); None guides the text alone,
      with the condition in both predictions.
    rescale: how much of the conditional prediction's deviation is given back (Lin et al., 2024).
  """

  negative: Text
  scale: Array | float
  image_scale: Array | float | None = None
  rescale: Array | float | None = None

  @property
  def names(self) -> tuple[str, ...]:
    """The predictions that are combined."""
    instructed = () if self.image_scale is None else ('image_only',)
    return ('conditional', *instructed, 'unconditional')

  def views(self, c: Condition) -> dict[str, Condition]:
    """The condition of each prediction."""
    without_text = c._replace(text=self.negative)
    nothing = without_text
    if self.image_scale is not None:
      nothing = without_text._replace(image=jnp.zeros_like(c.image))
    all_ = dict(conditional=c, image_only=without_text, unconditional=nothing)
    return {name: all_[name] for name in self.names}

  def combine(self, parts: dict[str, Array]) -> Array:
    """The guided prediction from those of `views`."""
    if self.image_scale is None:
      guided = guidance.classifier_free(**parts, scale=self.scale)
    else:
      guided = guidance.instructed(**parts, scale=self.scale, image_scale=self.image_scale)
    if self.rescale is None:
      return guided
    return guidance.rescaled(guided, conditional=parts['conditional'], amount=self.rescale)


class Bound(NamedTuple):
  """What stays the same from step to step: the joined conditions and, if z does not matter, h_η."""

  condition: Condition
  hints: Any


class Networks(NamedTuple):
  """The pieces, each called with the whole tree of parameters first.

  Attributes:
    adapted: apply function of the U-Net with its adapter (paths 'unet.*', 'adapter.*').
    vae: apply function of the autoencoder.
    text_encoder: apply function of the text encoder, or None.
    text_encoder_2: that of SDXL's second, or None.
    schedule: the noise schedule that the U-Net was trained with.
    prediction: what the U-Net's output means, in diffusers' terms ('v_prediction', ...).
    scale, shift: latents = (mean - shift) * scale.
    factor, channels: pixels per latent along a side; channels of the latents.
    condition_space: what the adapter wants of a condition image: 'latent', 'unscaled_latent',
      'pixel' or 'none'.
  """

  adapted: Callable
  vae: Callable
  text_encoder: Callable | None
  text_encoder_2: Callable | None
  schedule: schedules.Schedule
  prediction: str
  scale: float
  shift: float
  factor: int
  channels: int
  condition_space: str

  def latent_shape(self, images: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the latents of images [b, H, W, 3]."""
    return (images[0], images[1] // self.factor, images[2] // self.factor, self.channels)

  def encode(self, params: Params, images: Array, *, tile: int | None = None) -> Array:
    """Images [b, H, W, 3] in [0, 1] -> latents [b, h, w, c]: the mode, scaled.

    Args:
      tile: the side of overlapping tiles of latents, for images too large to encode at once.
    """
    encode = lambda part: self.vae(trees.select(params, 'vae'), 'encode', 2 * part - 1)[0]
    return (_in_tiles(encode, images, tile, self.factor) - self.shift) * self.scale

  def latents(
    self, params: Params, raw: dict[str, Array], name: str, *, tile: int | None = None
  ) -> Array:
    """The latents of a batch's picture 'image' or 'condition', encoded ahead or here."""
    ahead = raw.get(f'{name}_latents')
    return self.encode(params, raw[name], tile=tile) if ahead is None else ahead

  def decode(self, params: Params, latents: Array, *, tile: int | None = None) -> Array:
    """Latents [b, h, w, c] -> images [b, H, W, 3], about [0, 1]; not clipped, for gradients.

    Args:
      tile: the side of overlapping tiles of latents, for images too large to decode at once.
    """
    decode = partial(self.vae, trees.select(params, 'vae'), 'decode')
    unscaled = latents / self.scale + self.shift
    return _in_tiles(decode, unscaled, tile, 1) / 2 + 0.5

  def condition(
    self, params: Params, raw: dict[str, Array], *, tile: int | None = None
  ) -> Condition:
    """The condition image in the adapter's space, encoded in tiles if asked, and the text."""
    latents = partial(self.latents, params, raw, 'condition', tile=tile)
    spaces = dict(
      latent=latents,
      unscaled_latent=lambda: latents() / self.scale + self.shift,
      pixel=lambda: raw['condition'],
      none=lambda: None,
    )
    return Condition(spaces[self.condition_space](), self.text(params, raw))

  def text(self, params: Params, raw: dict[str, Array]) -> Text:
    """What the text encoders make of tokens [b, n], as diffusers' pipelines feed it to the U-Net.

    One encoder (SD 1.x, 2.x): its last states. Two (SDXL): the last but one of both, the projected
    state of the second, and the sizes.
    """
    read = lambda name, tokens: getattr(self, name)(trees.select(params, name), '__call__', tokens)
    first = read('text_encoder', raw['tokens'])
    if self.text_encoder_2 is None:
      return Text(first.last)
    second = read('text_encoder_2', raw['tokens_2'])
    states = jnp.concatenate([first.penultimate, second.penultimate], axis=-1)
    return Text(states, second.pooled, self.sizes(raw))

  def sizes(self, raw: dict[str, Array]) -> Array:
    """'sizes' [b, 6] of a batch, or those of whole, uncropped images."""
    if 'sizes' in raw:
      return raw['sizes']
    shape = raw['image'].shape if 'image' in raw else raw['image_latents'].shape
    factor = 1 if 'image' in raw else self.factor
    height, width = (factor * side for side in shape[1:3])
    return jnp.tile(jnp.array([[height, width, 0, 0, height, width]], jnp.float32), (shape[0], 1))

  def velocity(self, params: Params) -> Network:
    """The adapted network as (z, c, t) -> v."""

    def network(z: Array, c: Condition, t: Array) -> Array:
      out = self.adapted(params, '__call__', z, c, self._index(t))
      return parametrizations.to_v(self.prediction, z, out, self.schedule(t))

    return network

  def bound(self, params: Params, c: Condition) -> Network:
    """`velocity` for one condition alone, of which h_η(c) is computed once, where it can be."""
    denoise = self.denoiser(params, c)
    return lambda z, c, t: denoise(z, t)

  def denoiser(
    self,
    params: Params,
    c: Condition,
    *,
    guide: Guide | None = None,
    tiling: tiles.Tiling | None = None,
  ) -> Network:
    """(z, t) -> v with the condition bound; h_η(c) is computed here, once, where it can be.

    Args:
      guide: guidance, two or three predictions in one call of the network; None is one prediction.
      tiling: predicts in tiles, with the condition image cut alike.
    """
    if tiling is None:
      return partial(self._denoise, params, guide, self._bind(params, guide, c))

    def bind(start: Array) -> Bound:
      image = None if c.image is None else tiles.crop(c.image, start, tiling)
      return self._bind(params, guide, c._replace(image=image))

    bounds = jax.lax.map(bind, jnp.asarray(tiling.starts))

    def denoise(z: Array, t: Array) -> Array:
      part = lambda tile, bound: self._denoise(params, guide, bound, tile, t)
      return tiles.blended(part, z, bounds, tiling)

    return denoise

  def _bind(self, params: Params, guide: Guide | None, c: Condition) -> Bound:
    joined = c if guide is None else guidance.join(guide.views(c))
    return Bound(joined, self.adapted(params, 'hints', joined))

  def _denoise(
    self, params: Params, guide: Guide | None, bound: Bound, z: Array, t: Array
  ) -> Array:
    names = ('conditional',) if guide is None else guide.names
    batch, index = (guidance.join(dict.fromkeys(names, array)) for array in (z, self._index(t)))
    out = self.adapted(params, 'with_hints', batch, bound.condition, bound.hints, index)
    parts = guidance.split(out, names)
    out = parts['conditional'] if guide is None else guide.combine(parts)
    return parametrizations.to_v(self.prediction, z, out, self.schedule(t))

  def _index(self, t: Array) -> Array:
    return schedules.index(t)[:, 0, 0, 0]


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
