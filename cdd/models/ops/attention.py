"""Owns attention: with all scores at once, or in blocks of queries where they are many."""

import jax
import jax.numpy as jnp

from cdd.core.types import Array

# From 1024 x 1024 scores on, attention goes by blocks of queries (docs/performance.md).
LARGE, BLOCK = 2**20, 512


def attend(query: Array, key: Array, value: Array, heads: int, *, mask: Array | None = None):
  """Multi-head attention [b, n, d], [b, m, d], [b, m, d] -> [b, n, d]; softmax in float32.

  Args:
    mask: [n, m]; where it is False, a query does not see a key.
  """

  # Heads first: XLA's CPU backend is four times slower where they lie between n and d.
  def split(x):
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

  query, key, value = split(query), split(key), split(value)
  large = query.shape[2] * key.shape[2] >= LARGE
  out = streamed(query, key, value) if large and mask is None else at_once(query, key, value, mask)
  out = out.swapaxes(1, 2)
  return out.reshape(*out.shape[:2], -1)


def at_once(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
  """Attention of [b, h, n, d] to [b, h, m, d] by way of all scores [b, h, n, m]."""
  scores = jnp.einsum('bhnd,bhmd->bhnm', query, key) * query.shape[-1] ** -0.5
  scores = scores.astype(jnp.float32)
  scores = scores if mask is None else jnp.where(mask[None, None], scores, -jnp.inf)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum('bhnm,bhmd->bhnd', weights, value)


def streamed(query: Array, key: Array, value: Array) -> Array:
  """The same for `BLOCK` queries at a time, so that no [n, m] is ever held, backward neither.

  On a CPU one head at a time too: its scores then stay in the cache.
  """

  @jax.checkpoint
  def one(query: Array, key: Array, value: Array) -> Array:
    scores = jnp.einsum('...d,...md->...m', query, key).astype(jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    out = jnp.einsum('...m,...md->...d', weights.astype(value.dtype), value)
    return (out / weights.sum(-1, keepdims=True)).astype(value.dtype)

  def in_blocks(query: Array, key: Array, value: Array) -> Array:
    rows = jnp.moveaxis(query, -2, 0)
    out = jax.lax.map(lambda row: one(row, key, value), rows, batch_size=BLOCK)
    return jnp.moveaxis(out, 0, -2)

  def by_head(*arrays: Array) -> Array:
    flat = [x.reshape(-1, *x.shape[2:]) for x in arrays]
    return jax.lax.map(lambda head: in_blocks(*head), flat).reshape(arrays[0].shape)

  return jax.lax.platform_dependent(query, key, value, cpu=by_head, default=in_blocks)
