"""Owns the networks of a run as functions of one flat tree: 'unet.…', 'adapter.…', 'vae.…', …"""

from collections.abc import Callable
from typing import NamedTuple

from cdd import trees
from cdd.diffusion import parametrizations, schedules
from cdd.types import Array, Condition, Network, Params, Text


class Networks(NamedTuple):
  """The pieces, each called with the whole tree of parameters first.

  Attributes:
    adapted: apply function of the U-Net with its adapter (paths 'unet.*', 'adapter.*').
    vae: apply function of the autoencoder.
    text_encoder: apply function of the text encoder.
    schedule: the noise schedule that the U-Net was trained with.
    prediction: what the U-Net's output means, in diffusers' terms ('v_prediction', ...).
    scale, shift: latents = (mean - shift) * scale.
    factor, channels: pixels per latent along a side; channels of the latents.
    condition_space: 'latent' | 'pixel', what the adapter wants of a condition image.
    depends_on_z: whether the adapter must be evaluated at every step.
  """

  adapted: Callable
  vae: Callable
  text_encoder: Callable
  schedule: schedules.Schedule
  prediction: str
  scale: float
  shift: float
  factor: int
  channels: int
  condition_space: str
  depends_on_z: bool

  def latent_shape(self, images: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the latents of images [b, H, W, 3]."""
    return (images[0], images[1] // self.factor, images[2] // self.factor, self.channels)

  def encode(self, params: Params, images: Array) -> Array:
    """Images [b, H, W, 3] in [0, 1] -> latents [b, h, w, c]: the mode, scaled."""
    mean, _ = self.vae(trees.select(params, 'vae'), 'encode', 2 * images - 1)
    return (mean - self.shift) * self.scale

  def latents(self, params: Params, raw: dict[str, Array], name: str) -> Array:
    """The latents of a batch's picture 'image' or 'condition', encoded ahead or here."""
    ahead = raw.get(f'{name}_latents')
    return self.encode(params, raw[name]) if ahead is None else ahead

  def decode(self, params: Params, latents: Array) -> Array:
    """Latents [b, h, w, c] -> images [b, H, W, 3], about [0, 1]; not clipped, for gradients."""
    return (
      self.vae(trees.select(params, 'vae'), 'decode', latents / self.scale + self.shift) / 2 + 0.5
    )

  def condition(self, params: Params, raw: dict[str, Array]) -> Condition:
    """The condition image in the adapter's space and the text's hidden states."""
    spaces = dict(
      latent=lambda: self.latents(params, raw, 'condition'),
      pixel=lambda: raw['condition'],
      none=lambda: None,
    )
    image = spaces[self.condition_space]()
    states = self.text_encoder(trees.select(params, 'text_encoder'), '__call__', raw['tokens'])
    return Condition(image, Text(states))

  def velocity(self, params: Params) -> Network:
    """The adapted network as (z, c, t) -> v."""

    def network(z: Array, c: Condition, t: Array) -> Array:
      out = self.adapted(params, '__call__', z, c, self._index(t))
      return parametrizations.to_v(self.prediction, z, out, self.schedule(t))

    return network

  def denoiser(self, params: Params, c: Condition) -> Callable[[Array, Array], Array]:
    """(z, t) -> v with the condition bound; h_η(c) is computed here, once, where it can be."""
    if self.depends_on_z:
      network = self.velocity(params)
      return lambda z, t: network(z, c, t)
    hints = self.adapted(params, 'hints', c)

    def denoise(z: Array, t: Array) -> Array:
      out = self.adapted(params, 'with_hints', z, c, hints, self._index(t))
      return parametrizations.to_v(self.prediction, z, out, self.schedule(t))

    return denoise

  def _index(self, t: Array) -> Array:
    return schedules.index(t)[:, 0, 0, 0]
