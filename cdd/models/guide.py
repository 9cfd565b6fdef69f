"""Owns guidance of a network: which conditions it is evaluated with, and how they are combined."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdd.core.types import Array, Condition, Text
from cdd.diffusion import guidance


class Guide(NamedTuple):
  """What a prediction is guided away from, and how far.

  Attributes:
    negative: the text of the unconditional prediction: the empty prompt, or a negative one.
    scale: from there towards the prompt; 1 is no guidance.
    image_scale: from no condition image towards it (InstructPix2Pix); None guides the text alone,
      with the condition in both predictions.
    rescale: the share of the conditional prediction's deviation that is restored (Lin et al.,
      2024).
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
      nothing = without_text._replace(arrays=jax.tree.map(jnp.zeros_like, c.arrays))
    views = dict(conditional=c, image_only=without_text, unconditional=nothing)
    return {name: views[name] for name in self.names}

  def combine(self, parts: dict[str, Array]) -> Array:
    """The guided prediction from those of `views`."""
    if self.image_scale is None:
      guided = guidance.classifier_free(**parts, scale=self.scale)
    else:
      guided = guidance.instructed(**parts, scale=self.scale, image_scale=self.image_scale)
    if self.rescale is None:
      return guided
    return guidance.rescaled(guided, conditional=parts['conditional'], amount=self.rescale)
