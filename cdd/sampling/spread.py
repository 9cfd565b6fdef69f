"""Owns the lists of a batch: one prompt, condition or seed goes with all of the others."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdd.core.errors import UserError
from cdd.core.registry import fits
from cdd.data.images import SLACK


def spread(given: dict[str, Any]) -> dict[str, list]:
  """Lists of one length: what is given once goes with all of the others; seed s means s, s + 1...

  Raises:
    UserError: two lists of more than one are of different lengths.
  """
  lists = {name: [v] if _is_one(v) else list(v) for name, v in given.items()}
  counts = {name: len(values) for name, values in lists.items() if len(values) != 1}
  count = max([1, *counts.values()])
  if any(length != count for length in counts.values()):
    what = ', '.join(f'{length} {name}' for name, length in counts.items())
    raise UserError(f'One of each, or as many as images: {what} were given.')
  if isinstance(given.get('seeds'), Integral):
    lists['seeds'] = [int(given['seeds']) + index for index in range(count)]
  return {name: values * (count if len(values) == 1 else 1) for name, values in lists.items()}


def _is_one(value: Any) -> bool:
  return (
    isinstance(value, str)
    or not isinstance(value, Iterable)
    or getattr(value, 'ndim', None) in (0, 3)
  )


def check(given: dict[str, Sequence]) -> None:
  """Refuses texts and seeds that are none.

  Args:
    given: lists as `spread` makes them.

  Raises:
    UserError: names the first, and what it must be.
  """
  kinds = dict(prompts=(str | None, 'a text'), negative=(str | None, 'a text or None'))
  kinds |= dict(seeds=(int, 'a whole number'))
  for name, (kind, words) in kinds.items():
    for value in given[name]:
      if not fits(value, kind):
        raise UserError(f'Of {name} one is {value!r}; it must be {words}.')


def check_pixels(condition: np.ndarray) -> None:
  """Refuses condition images [b, H, W, c] of other numbers than 0..1.

  Raises:
    UserError: says where they lie.
  """
  low, high = condition.min(), condition.max()
  if not (low >= -SLACK and high <= 1 + SLACK):  # Also of NaN.
    raise UserError(
      f'The values of the condition go from {low:g} to {high:g}; they must be in 0..1: divide '
      'pixels of 0..255 by 255.'
    )


def shape_of(
  condition: Sequence[np.ndarray | None], *, channels: int = 3
) -> tuple[int, int] | None:
  """(height, width) of the condition images, or None without; a UserError if they differ."""
  shapes = {np.shape(image) for image in condition}
  if shapes == {()}:
    return None
  if len(shapes) > 1 or len(min(shapes)) != 3 or min(shapes)[2] != channels:
    mask = ', the last channel being a mask' if channels == 4 else ''
    raise UserError(
      f'The condition images should be alike, [H, W, {channels}]{mask}, not {sorted(shapes)}.'
    )
  return min(shapes)[:2]


def noise(seeds: Sequence[int], shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """(z [b, *shape], keys [b]): what a sampler starts from and draws from, per image.

  Raises:
    UserError: a seed does not fit 32 bits.
  """
  for seed in seeds:
    if not -(2**31) <= seed < 2**31:
      raise UserError(f'The seed {seed} is out of range; choose one of {-(2**31)}..{2**31 - 1}.')
  keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(jnp.asarray(seeds))
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys[:, 0]), keys[:, 1]


def fitting(latents: Sequence[np.ndarray], z: jax.Array) -> np.ndarray:
  """Latents of a caller in place of z; a UserError if their shape is another."""
  latents = np.stack(latents).astype(np.float32)
  if latents.shape != z.shape:
    raise UserError(f'The latents are {latents.shape}; these images need {z.shape}.')
  return latents
