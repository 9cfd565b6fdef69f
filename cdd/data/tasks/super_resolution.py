"""Owns super-resolution: the condition is the degraded image, enlarged bicubically to full size."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cdd.core.errors import UserError
from cdd.core.registry import bind
from cdd.core.types import Array
from cdd.data import images
from cdd.data.degradations import DEGRADATIONS
from cdd.data.degradations.bicubic import resampled
from cdd.data.degradations.degradation import Degradation
from cdd.data.tasks.task import Task, as_rgb


def super_resolution(*, factor: int, degradation: Mapping) -> Task:
  """Images from ones that are `factor` times smaller; `degradation` makes those in training.

  They are enlarged with Pillow's bicubic kernel, in training as for a user's picture. StableSR
  trains on PyTorch's, which is sharper.

  Raises:
    UserError: the factor is less than 1, or the degradation is none.
  """
  if factor < 1:
    raise UserError(f'config.data.task.factor is {factor}; it must be 1 or more.')
  degrade = bind(DEGRADATIONS, degradation, 'degradation')(factor=factor)

  def draw(example, rng):
    drawn = dict(image=example['image'], caption=example['caption'])
    if degrade.on_host is not None:
      small = degrade.on_host(example['image'], rng)
      drawn['condition'] = enlarged(Image.fromarray(small))
    return drawn

  def enlarged(small: Image.Image) -> np.ndarray:
    small = images.rgb(small)
    size = (factor * small.width, factor * small.height)
    return as_rgb(small if factor == 1 else small.resize(size, Image.Resampling.BICUBIC))

  finish = None if degrade.on_device is None else finishing(degrade)
  return Task(draw, enlarged, finish=finish)


def finishing(degradation: Degradation):
  """`Task.finish`: makes the `condition` of the `image` and the `draws` of a batch."""

  def one(example: tuple[Array, Array]) -> tuple[Array, Array]:
    image, draws = example
    # Not the default generator: some draw other bits in a batch, or cut over devices.
    key = jax.random.wrap_key_data(draws, impl='threefry2x32')
    key, of_chance = jax.random.split(key)
    target, small = degradation.on_device(image, key)
    condition = resampled(small, image.shape[:2])
    whole = jax.random.bernoulli(of_chance, degradation.intact)
    return target, jnp.where(whole, target, condition)

  def finish(batch: dict[str, Array]) -> dict[str, Array]:
    rest = {name: array for name, array in batch.items() if name != 'draws'}
    # One after another: then a stage that an example leaves out costs nothing.
    target, condition = jax.lax.map(one, (batch['image'], batch['draws']))
    return rest | dict(image=target, condition=condition)

  return finish
