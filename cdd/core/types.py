"""The nouns that every layer shares."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Params = dict[str, Array]  # flat: the path of a leaf, joined by dots, to the leaf
Network = Callable[[Array, Any, Array], Array]  # (z, c, t) -> v


class Text(NamedTuple):
  """A prompt as a U-Net reads it.

  Attributes:
    states: [b, n, d] hidden states of the text encoders, joined along d.
    pooled: [b, p] the projected state of the last text encoder (SDXL), or None.
    sizes: [b, 6] the sizes that SDXL is told, in pixels, or None: (height, width) of the original,
      (top, left) of the crop, (height, width) of the target.
  """

  states: Array
  pooled: Array | None = None
  sizes: Array | None = None


class Condition(NamedTuple):
  """What a sample is conditioned on.

  Attributes:
    image: [b, h, w, k]; the condition's latents, or pixels in [0, 1], as the adapter asks.
    text: the prompt.
  """

  image: Array | None
  text: Text | None


class Batch(NamedTuple):
  """One draw (x, c) ~ p_data: latents [b, h, w, c] and their conditions."""

  x: Array
  c: Condition


class Nets(NamedTuple):
  """The networks a loss may call, parameters bound: θ, θ⁻, the frozen pretrained v_θ, E and D."""

  online: Network
  target: Network | None = None
  teacher: Network | None = None
  encode: Callable[[Array], Array] | None = None
  decode: Callable[[Array], Array] | None = None
