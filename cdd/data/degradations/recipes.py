"""Owns the numbers of the second-order degradations, as published, and what may be changed of them.

Sources: Real-ESRGAN's options/train_realesrgan_x4plus.yml, StableSR's
configs/stableSRNew/v2-finetune_text_T_512.yaml. StableSR's `blur_kernel_size2` is not here: its
code never reads it. Its `jpeg_range2` ends at quality 100, where its own arithmetic divides by
zero; ours does not (`jpeg.tables`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cdd.core.errors import UserError
from cdd.core.registry import fits, plain

Range = Sequence[float]


class Round(NamedTuple):
  """One of the two rounds of blur, resizing, noise and JPEG. A range is drawn from uniformly.

  Attributes:
    blur: the probability of a blur.
    sinc: that of a sinc filter in place of the other kernels.
    sigma: range of the kernels' standard deviations, in pixels.
    generalized, plateau: ranges of the exponents of these families of kernels.
    enlarge, reduce: probabilities of a scale from 1 to the end of `scale`, and from its start to 1.
    scale: range of the scale.
    gaussian: the probability of Gaussian noise; else it is Poisson's.
    noise: range of the Gaussian's standard deviation, of 255.
    poisson: range of what the Poisson noise is multiplied with.
    grey: the probability of noise without colour.
    quality: range of the JPEG quality.
  """

  blur: float
  sinc: float
  sigma: Range
  generalized: Range
  plateau: Range
  enlarge: float
  reduce: float
  scale: Range
  gaussian: float
  noise: Range
  poisson: Range
  grey: float
  quality: Range


class Recipe(NamedTuple):
  """A whole degradation.

  Attributes:
    first, second: its rounds.
    final_sinc: the probability of a sinc filter at the end.
    intact: that of no degradation at all.
    sharpen: whether the image is sharpened first; the sharp one is what is to be restored.
    rounded: whether the result has whole numbers of 255.
    basicsr_compat: whether JPEG has BasicSR's tables (`jpeg.tables`).
  """

  first: Round
  second: Round
  final_sinc: float = 0.8
  intact: float = 0.0
  sharpen: bool = True
  rounded: bool = True
  basicsr_compat: bool = False


REAL_ESRGAN = Recipe(
  first=Round(
    blur=1.0,
    sinc=0.1,
    sigma=(0.2, 3.0),
    generalized=(0.5, 4.0),
    plateau=(1.0, 2.0),
    enlarge=0.2,
    reduce=0.7,
    scale=(0.15, 1.5),
    gaussian=0.5,
    noise=(1.0, 30.0),
    poisson=(0.05, 3.0),
    grey=0.4,
    quality=(30.0, 95.0),
  ),
  second=Round(
    blur=0.8,
    sinc=0.1,
    sigma=(0.2, 1.5),
    generalized=(0.5, 4.0),
    plateau=(1.0, 2.0),
    enlarge=0.3,
    reduce=0.4,
    scale=(0.3, 1.2),
    gaussian=0.5,
    noise=(1.0, 25.0),
    poisson=(0.05, 2.5),
    grey=0.4,
    quality=(30.0, 95.0),
  ),
)
STABLE_SR = Recipe(
  first=REAL_ESRGAN.first._replace(
    sigma=(0.2, 1.5),
    generalized=(0.5, 2.0),
    plateau=(1.0, 1.5),
    scale=(0.3, 1.5),
    noise=(1.0, 15.0),
    poisson=(0.05, 2.0),
    quality=(60.0, 95.0),
  ),
  second=REAL_ESRGAN.second._replace(
    blur=0.5,
    sigma=(0.2, 1.0),
    generalized=(0.5, 2.0),
    plateau=(1.0, 1.5),
    scale=(0.6, 1.2),
    noise=(1.0, 12.0),
    poisson=(0.05, 1.0),
    quality=(60.0, 100.0),
  ),
  intact=0.01,
  rounded=False,
)
# Ranges -> (the least, the greatest) that they may hold, and a value that they must hold, if any.
BOUNDS = dict(
  sigma=(0.01, 100.0, None),
  generalized=(0.01, 20.0, 1.0),
  plateau=(0.01, 20.0, 1.0),
  scale=(0.01, 4.0, 1.0),
  noise=(0.0, 255.0, None),
  poisson=(0.0, 100.0, None),
  quality=(1.0, 100.0, None),
)


def changed(recipe: Recipe, **given) -> Recipe:
  """A recipe with other values.

  Args:
    given: fields of `Recipe`; those of its rounds are mappings from the fields of `Round` that are
      to be changed. None changes nothing.

  Raises:
    UserError: an unknown field, or a value out of range.
  """
  given = {name: value for name, value in given.items() if value is not None}
  for name in ('first', 'second'):
    if name in given:
      given[name] = _round(name, getattr(recipe, name), plain(given[name]))
  recipe = recipe._replace(**given)
  for name in ('final_sinc', 'intact'):
    _check_share(name, getattr(recipe, name))
  return recipe


def _round(where: str, numbers: Round, given: Mapping) -> Round:
  for name, value in given.items():
    if name not in Round._fields:
      raise UserError(
        f'Unknown setting {name!r} of {where}, a round of a degradation; choose from '
        f'{[*Round._fields]}.'
      )
    if name in BOUNDS:
      _check_range(f'{where}.{name}', value, *BOUNDS[name])
    else:
      _check_share(f'{where}.{name}', value)
  numbers = numbers._replace(**given)
  if numbers.enlarge + numbers.reduce > 1:
    raise UserError(
      f'The degradation has {where}.enlarge={numbers.enlarge} and {where}.reduce='
      f'{numbers.reduce}; these are probabilities, whose sum must be at most 1.'
    )
  return numbers


def _check_share(name: str, value) -> None:
  if not (fits(value, float) and 0 <= value <= 1):
    raise UserError(f'{name} of the degradation is {value!r}; it must be a number in 0..1.')


def _check_range(name: str, value, least: float, most: float, within: float | None) -> None:
  fine = fits(value, tuple) and len(value) == 2 and all(fits(end, float) for end in value)
  fine = fine and least <= value[0] <= value[1] <= most
  if not (fine and (within is None or value[0] <= within <= value[1])):
    around = '' if within is None else f', with {within:g} between them'
    raise UserError(
      f'{name} of the degradation is {value!r}; it must be a range (low, high) in '
      f'{least:g}..{most:g}{around}.'
    )
