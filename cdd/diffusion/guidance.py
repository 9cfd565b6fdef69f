"""Owns classifier-free guidance, its two predictions named, never positional."""

import jax


def classifier_free(*, conditional: jax.Array, unconditional: jax.Array, scale: float) -> jax.Array:
  """unconditional + scale (conditional − unconditional); scale 1 is no guidance (Ho & Salimans, 2022)."""
  return unconditional + scale * (conditional - unconditional)
