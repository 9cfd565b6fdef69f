"""The nouns that every layer shares."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax

Array = jax.Array
Params = dict[str, Array]  # flat: the path of a leaf, with dots, to the leaf


class Denoise(Protocol):
  """A network with its parameters and its condition bound."""

  def __call__(self, z: Array, t: Array, s: Array | None) -> Array:
    """v [b, h, w, c] at t, whose DDIM step leads to s.

    A network that is not given its step ignores s. s = None, or s = t in an example, asks for the
    velocity of the posterior mean.

    Args:
      z: [b, h, w, c] at t.
      t, s: int32 [b, 1, 1, 1].
    """

  def rows(self, rows: slice) -> 'Denoise':
    """The same network with the conditions of some of the examples."""

  def told(self, scale: Array) -> 'Denoise':
    """The same network, given guidance scales [b, 1, 1, 1] beside its steps."""

  def guided(self, scale: Array, negative: 'Text') -> 'Denoise':
    """The same network with guidance [b, 1, 1, 1] away from a text, by two predictions."""


class Text(NamedTuple):
  """A prompt as a U-Net reads it.

  Attributes:
    states: [b, n, d] hidden states of the text encoders, concatenated along d.
    pooled: [b, p] the projected state of the last text encoder (SDXL), or None.
    sizes: [b, 6] the sizes that SDXL reads, in pixels, or None: (height, width) of the original,
      (top, left) of the crop, (height, width) of the target.
  """

  states: Array
  pooled: Array | None = None
  sizes: Array | None = None


class Condition(NamedTuple):
  """What a sample is conditioned on.

  Attributes:
    arrays: name -> [b, h, w, k], what the adapter declares that it reads: latents or pixels.
    text: the prompt, or None.
  """

  arrays: dict[str, Array]
  text: Text | None


class Batch(NamedTuple):
  """The data of one update; a method reads what it needs.

  Attributes:
    x: [b, h, w, c] latents, or None for a run without a U-Net.
    images: [b, H, W, 3] in [-1, 1], or None where only latents are at hand.
    negative: the empty prompt, for every example, or None where no method guides away from it.
  """

  x: Array | None = None
  images: Array | None = None
  negative: Text | None = None


class Nets(NamedTuple):
  """The networks that a loss may call, with parameters and the condition bound.

  Attributes:
    online: θ.
    target: θ⁻.
    teacher: the frozen pretrained network.
    encode: E, images in [0, 1] -> latents.
    decode: D, latents -> images, about [0, 1].
    moments: the autoencoder's encoder alone: images in [-1, 1] -> mean and log-variance.
    render: the autoencoder's decoder alone: unscaled latents -> images in [-1, 1].
  """

  online: Denoise | None = None
  target: Denoise | None = None
  teacher: Denoise | None = None
  encode: Callable[[Array], Array] | None = None
  decode: Callable[[Array], Array] | None = None
  moments: Callable[[Array], tuple[Array, Array]] | None = None
  render: Callable[[Array], Array] | None = None
