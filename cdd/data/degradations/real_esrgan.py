"""Owns the degradation of Real-ESRGAN and StableSR: two rounds of blur, resizing, noise and JPEG.

Source: Wang et al. 2021 and realesrgan/models/realesrgan_model.py. There a batch shares the scales,
the modes, the kinds of noise and the order of the last stages, and a pool of 180 images hides it;
here every example draws all of them itself, from its own key, and there is no pool.
"""

import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cdd.core.types import Array
from cdd.data.degradations import filters, jpeg, kernels, noise, recipes, resize
from cdd.data.degradations.degradation import Degradation, check_sides
from cdd.data.degradations.kernels import within
from cdd.data.degradations.recipes import Recipe, Round
from cdd.data.degradations.sharpen import sharpened

SMALL = 128  # Pixels of a side.


def real_esrgan(
  *,
  factor: int,
  first: Mapping | None = None,
  second: Mapping | None = None,
  final_sinc: float | None = None,
  intact: float | None = None,
  sharpen: bool | None = None,
  rounded: bool | None = None,
  basicsr_compat: bool | None = None,
) -> Degradation:
  """Real-ESRGAN's second-order degradation, on the device.

  Args:
    factor: the reduction; it must divide both sides.
    first, second: changes of the rounds (`recipes.Round`), as first=dict(quality=(50, 95)).
    final_sinc, intact, sharpen, rounded, basicsr_compat: changes of the whole (`recipes.Recipe`).

  Raises:
    UserError: a value out of range.
  """
  changes = dict(first=first, second=second, final_sinc=final_sinc, intact=intact)
  changes |= dict(sharpen=sharpen, rounded=rounded, basicsr_compat=basicsr_compat)
  return of_recipe(recipes.changed(recipes.REAL_ESRGAN, **changes), factor)


def stable_sr(
  *,
  factor: int,
  first: Mapping | None = None,
  second: Mapping | None = None,
  final_sinc: float | None = None,
  intact: float | None = None,
  sharpen: bool | None = None,
  rounded: bool | None = None,
  basicsr_compat: bool | None = None,
) -> Degradation:
  """The same stages with StableSR's milder numbers; the settings are those of `real_esrgan`."""
  changes = dict(first=first, second=second, final_sinc=final_sinc, intact=intact)
  changes |= dict(sharpen=sharpen, rounded=rounded, basicsr_compat=basicsr_compat)
  return of_recipe(recipes.changed(recipes.STABLE_SR, **changes), factor)


def of_recipe(recipe: Recipe, factor: int) -> Degradation:
  return Degradation(
    on_device=partial(degraded, recipe=recipe, factor=factor), intact=recipe.intact
  )


def degraded(image: Array, key: Array, *, recipe: Recipe, factor: int) -> tuple[Array, Array]:
  """(the image to be restored, the degraded one), as `Degradation.on_device` says."""
  check_sides(image.shape, factor)
  whole = image.shape[:2]
  small = tuple(side // factor for side in whole)
  image = image.transpose(2, 0, 1)
  target = sharpened(image) if recipe.sharpen else image
  of_blur, of_scale, of_middle, of_noise, of_end = jax.random.split(key, 5)
  x = _blurred(of_blur, target, whole, recipe.first)
  scale = draw_scale(of_scale, recipe.first)
  parts = [*_parts(whole), recipe.first.scale[1]]
  ways = [partial(_middle, of_middle, x, scale, small, recipe, part=part) for part in parts]
  x, size = jax.lax.switch((scale > np.float32(parts[:-1])).sum(), ways)
  x = _noisy(of_noise, x, size, recipe.second)
  x = jnp.clip(_ended(of_end, x, size, small, recipe), 0, 1)
  x = jnp.round(255 * x) / 255 if recipe.rounded else x
  return target.transpose(1, 2, 0), x.transpose(1, 2, 0)


def _parts(size: tuple[int, int]) -> tuple[float, ...]:
  """The smaller canvases: most images are reduced, and would leave the largest one empty.

  They are parts of the sides. Of a small image they would cost more to compile than they spare.
  """
  return (0.5, 1.0) if max(size) > SMALL else ()


def _middle(
  key: Array, image: Array, scale: Array, small: tuple[int, int], recipe: Recipe, *, part: float
) -> tuple[Array, filters.Size]:
  """(a canvas, the size of the image on it): from the first resizing up to the second.

  Args:
    image: [3, H, W].
    part: the canvas in between has this part of the sides, at least `scale`.
  """
  key, of_noise, of_blur, of_scale = jax.random.split(key, 4)
  mode, second_mode, quality = jax.random.uniform(key, (3,))
  whole = image.shape[1:]
  size = _scaled(whole, scale)
  canvas = tuple(_multiple(side * part) for side in whole)
  # PyTorch is given the scale in the first round, and the size in the second.
  x = resize.resized(image, _mode(mode), whole, size, (1 / scale, 1 / scale), canvas)
  x = _noisy(of_noise, x, size, recipe.first)
  quality = within(quality, recipe.first.quality)
  x = jpeg.compressed(x, size, quality=quality, basicsr_compat=recipe.basicsr_compat)
  x = _blurred(of_blur, x, size, recipe.second)
  after = _scaled(small, draw_scale(of_scale, recipe.second))
  canvas = tuple(_multiple(side * recipe.second.scale[1]) for side in small)
  x = resize.resized(x, _mode(second_mode), size, after, _ratios(size, after), canvas)
  return x, after


def _blurred(key: Array, image: Array, size: filters.Size, numbers: Round) -> Array:
  key, of_kernel = jax.random.split(key)
  kernel = kernels.draw(
    of_kernel,
    sinc_share=numbers.sinc,
    sigma=numbers.sigma,
    generalized=numbers.generalized,
    plateau=numbers.plateau,
  )
  return jax.lax.cond(
    jax.random.uniform(key) < numbers.blur,
    lambda: filters.filter2d(image, kernel, size),
    lambda: image,
  )


def _scaled(size: filters.Size, scale: Array) -> filters.Size:
  return tuple(jnp.maximum(jnp.floor(side * scale).astype(jnp.int32), 1) for side in size)


def _ratios(before: filters.Size, after: filters.Size) -> tuple[Array, Array]:
  return tuple(old / new for old, new in zip(before, after, strict=True))


def draw_scale(key: Array, numbers: Round) -> Array:
  """Enlargement, reduction, or 1."""
  kind, share = jax.random.uniform(key, (2,))
  low, high = numbers.scale
  other = jnp.where(kind < numbers.enlarge + numbers.reduce, within(share, (low, 1)), 1.0)
  return jnp.where(kind < numbers.enlarge, within(share, (1, high)), other)


def _mode(share: Array) -> Array:
  return jnp.floor(share * len(resize.MODES)).astype(jnp.int32)


def _multiple(side: float) -> int:
  """The side of a canvas for so many pixels that JPEG can cut into its blocks."""
  return math.ceil(side / jpeg.MULTIPLE) * jpeg.MULTIPLE


def _noisy(key: Array, image: Array, size: filters.Size, numbers: Round) -> Array:
  key, of_noise = jax.random.split(key)
  kind, grey, share = jax.random.uniform(key, (3,))
  grey = grey < numbers.grey
  sigma, scale = within(share, numbers.noise), within(share, numbers.poisson)
  return jax.lax.cond(
    kind < numbers.gaussian,
    lambda: noise.gaussian(of_noise, image, sigma=sigma, grey=grey),
    lambda: noise.poisson(of_noise, image, size, scale=scale, grey=grey),
  )


def _ended(
  key: Array, image: Array, size: filters.Size, small: tuple[int, int], recipe: Recipe
) -> Array:
  """The last reduction with its sinc filter, and the last JPEG, in either order: [3, h, w]."""
  key, of_kernel = jax.random.split(key)
  order, mode, quality = jax.random.uniform(key, (3,))
  kernel = kernels.draw_final(of_kernel, share=recipe.final_sinc)
  quality = within(quality, recipe.second.quality)
  mode, canvas = _mode(mode), tuple(map(_multiple, small))
  steps = _ratios(size, small)

  def reduced(x):
    return filters.filter2d(resize.resized(x, mode, size, small, steps, canvas), kernel, small)

  def compressed(x, size):
    x = jnp.clip(x, 0, 1)
    return jpeg.compressed(x, size, quality=quality, basicsr_compat=recipe.basicsr_compat)

  x = jax.lax.cond(
    order < 0.5,
    lambda: compressed(reduced(image), small),
    lambda: reduced(compressed(image, size)),
  )
  return x[:, : small[0], : small[1]]
