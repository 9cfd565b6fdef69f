"""Owns classifier-free guidance, its two predictions named, never positional."""

import jax


def classifier_free(*, conditional: jax.Array, unconditional: jax.Array, scale: float) -> jax.Array:
  """unconditional + scale (conditional − unconditional) (Ho & Salimans, 2022); scale 1 is none."""
  return unconditional + scale * (conditional - unconditional)
