"""Owns classifier-free guidance: its predictions are batched and split by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def classifier_free(*, conditional: jax.Array, unconditional: jax.Array, scale: float) -> jax.Array:
  """unconditional + scale (conditional − unconditional) (Ho & Salimans, 2022); scale 1 is none."""
  return unconditional + scale * (conditional - unconditional)


def instructed(
  *,
  conditional: jax.Array,
  image_only: jax.Array,
  unconditional: jax.Array,
  scale: float,
  image_scale: float,
) -> jax.Array:
  """Towards the text from the image alone, towards the image from neither.

  InstructPix2Pix (Brooks et al., 2023, Eq. 3); scales 1 and 1 are none.
  """
  towards_image = image_scale * (image_only - unconditional)
  return unconditional + scale * (conditional - image_only) + towards_image


def rescaled(guided: jax.Array, *, conditional: jax.Array, amount: float) -> jax.Array:
  """Restores a share of the conditional prediction's deviation (Lin et al., 2024, §3.4).

  Args:
    amount: 0 is none, 1 all of the deviation; their Eqs. 15 and 16.
  """

  def std(x):
    return jnp.std(x, axis=(1, 2, 3), keepdims=True, ddof=1)  # As diffusers has it.

  return guided * (amount * std(conditional) / std(guided) + 1 - amount)


def concatenate(parts: Mapping[str, Any]) -> Any:
  """Trees of arrays [b, ...], one per name, as one tree of arrays [n b, ...]."""
  return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts.values())


def split(batch: jax.Array, names: Sequence[str]) -> dict[str, jax.Array]:
  """An array [n b, ...] that was made of what `concatenate` put together, by name."""
  return dict(zip(names, jnp.split(batch, len(names)), strict=True))
