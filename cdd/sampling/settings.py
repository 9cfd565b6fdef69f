"""Owns how images are drawn: the settings of a call, the same for all of a batch."""

from typing import NamedTuple

from cdd.core.errors import UserError
from cdd.core.registry import fits, named
from cdd.data import prompts


class Settings(NamedTuple):
  """How images are drawn, the same for all of a batch.

  Attributes:
    guidance: towards the prompt; 1 is none and costs one prediction a step, anything else two, but
      for a model that is given the scale. None is 1, or the nearest to it that a model is given.
    image_guidance: InstructPix2Pix's second scale; three predictions a step.
    rescale: the share of the deviation that guidance adds which is removed again (Lin et al.,
      2024); 0 is none.
    steps: how many; the sampler's default if None: 4 for 'consistency', 50 for 'ddim'.
    sampler: one of SAMPLERS; the model's default if None.
    spacing: one of times.SPACINGS; the model's default if None.
    tile: the side of overlapping tiles in pixels; None: the image is made at once; 'auto': tiles of
      the size that the U-Net was trained at, where the condition image is larger.
    adapter_strength: what the adapter adds is multiplied by it; 1 is as it was trained, 0 none.
    adapter_start, adapter_end: the share of the steps after which the adapter begins to act, and
      after which it no longer does.
    long_prompts: whether prompts that are longer than the text encoder reads are read in chunks; if
      not, their end is left out.
    weighted_prompts: whether (words), [words] and (words:1.3) weight words (`data.prompts`).
  """

  guidance: float | None = None
  image_guidance: float | None = None
  rescale: float = 0.0
  steps: int | None = None
  sampler: str | None = None
  spacing: str | None = None
  tile: str | int | None = 'auto'
  adapter_strength: float = 1.0
  adapter_start: float = 0.0
  adapter_end: float = 1.0
  long_prompts: bool = False
  weighted_prompts: bool = False

  @property
  def guides(self) -> bool:
    """Whether a negative prompt matters at all."""
    return not {self.guidance, self.image_guidance} <= {None, 1}

  @property
  def style(self) -> prompts.Style:
    """How prompts are read."""
    return prompts.Style(self.long_prompts, self.weighted_prompts)

  @property
  def adapter_part(self) -> dict[str, float]:
    """How strongly and when the adapter acts."""
    return dict(scale=self.adapter_strength, start=self.adapter_start, end=self.adapter_end)

  def scales(self) -> dict[str, float | None]:
    """The numbers that the compiled function takes as arguments."""
    return dict(scale=self.guidance, image_scale=self.image_guidance, rescale=self.rescale or None)


ADAPTER = ('adapter_strength', 'adapter_start', 'adapter_end')
CHECKED = (
  *('guidance', 'image_guidance', 'rescale', 'steps', *ADAPTER),
  *('long_prompts', 'weighted_prompts'),
)


def check(settings: Settings) -> None:
  """Refuses values that no model can be sampled with.

  Raises:
    UserError: names the setting, its value and what it may be.
  """
  for name in CHECKED:
    value, kind = getattr(settings, name), Settings.__annotations__[name]
    if not fits(value, kind):
      raise UserError(f'{name} is {value!r}; it must be {named(kind)}.')
  if settings.steps is not None and settings.steps < 1:
    raise UserError(f'steps is {settings.steps}; it must be 1 or more, or None.')
  if not 0 <= settings.rescale <= 1:
    raise UserError(f'rescale is {settings.rescale}; it must be a share, 0..1.')
  if settings.adapter_strength < 0:
    raise UserError(f'adapter_strength is {settings.adapter_strength}; it must be 0 or more.')
  start, end = settings.adapter_start, settings.adapter_end
  if not 0 <= start < end <= 1:
    raise UserError(
      f'adapter_start is {start} and adapter_end {end}; they must be shares of the steps, '
      '0 <= adapter_start < adapter_end <= 1.'
    )
  tile = settings.tile
  if not (tile in ('auto', None) or (fits(tile, int) and tile > 0)):
    raise UserError(f"tile is {tile!r}; it must be 'auto', None or a whole number of pixels.")
