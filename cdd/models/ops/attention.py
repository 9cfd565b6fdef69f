"""Owns attention: by way of all scores, in turns whose scores stay in fast memory, or fused."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from cdd.core.types import Array
from cdd.models.ops import flash
from cdd.models.ops.parts import parts

# What it makes, by the name that `remat.rematerialized` knows.
kept = functools.partial(checkpoint_name, name='attention')
# From so many scores of a head on, attention goes in turns on every platform.
LARGE = 2**20
# On CPUs a turn has so many queries of one head; elsewhere its scores have so many bytes in
# float32, which a TPU's VMEM holds (docs/performance.md).
ROWS, VMEM = 512, 56 * 2**20
# A turn has a multiple of so many queries, where it has not all of them.
LANES = 128


def attend(query: Array, key: Array, value: Array, heads: int, *, mask: Array | None = None):
  """Multi-head attention [b, n, d], [b, m, d], [b, m, d] -> [b, n, d]; softmax in float32.

  Args:
    mask: [n, m]; where it is False, a query does not see a key.
  """

  # Heads first: XLA's CPU backend is four times slower where they lie between n and d.
  def split(x):
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

  query, key, value = split(query), split(key), split(value)
  if mask is not None:
    out = at_once(query, key, value, mask)
  elif query.shape[2] * key.shape[2] >= LARGE:
    ways = dict(tpu=flash.fused) if flash.suits(query, key) else {}
    out = jax.lax.platform_dependent(query, key, value, cpu=by_head, default=by_image, **ways)
  else:
    out = jax.lax.platform_dependent(query, key, value, tpu=by_image, default=at_once)
  out = out.swapaxes(1, 2)
  return out.reshape(*out.shape[:2], -1)


def at_once(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
  """Attention of [b, h, n, d] to [b, h, m, d] by way of all scores [b, h, n, m]."""
  scores = jnp.einsum('bhnd,bhmd->bhnm', query, key) * query.shape[-1] ** -0.5
  scores = scores.astype(jnp.float32)
  scores = scores if mask is None else jnp.where(mask[None, None], scores, -jnp.inf)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return kept(jnp.einsum('bhnm,bhmd->bhnd', weights, value))


def by_head(query: Array, key: Array, value: Array) -> Array:
  """The same in turns of one head, some queries at a time.

  For CPUs, whose caches hold the scores of one head.
  """

  @jax.checkpoint
  def one(query: Array, key: Array, value: Array) -> Array:
    scores = jnp.einsum('d,md->m', query, key).astype(jnp.float32) * query.shape[-1] ** -0.5
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max()))
    out = jnp.einsum('m,md->d', weights.astype(value.dtype), value)
    return (out / weights.sum()).astype(value.dtype)

  def head(query: Array, key: Array, value: Array) -> Array:
    return jax.lax.map(lambda row: one(row, key, value), query, batch_size=ROWS)

  flat = [x.reshape(-1, *x.shape[2:]) for x in (query, key, value)]
  return kept(jax.lax.map(lambda arrays: head(*arrays), flat).reshape(query.shape))


def by_image(query: Array, key: Array, value: Array) -> Array:
  """The same in turns of some images with all heads, or of some queries of one image."""
  return in_turns(query, key, value, fast=VMEM)


def in_turns(query: Array, key: Array, value: Array, *, fast: int) -> Array:
  """Attention whose scores take at most about `fast` bytes of a device at a time."""
  b, h, n, _ = query.shape
  size = 4 * math.ceil(h / parts('tensor')) * key.shape[2]  # Of the scores of one query.
  shards = math.gcd(b, parts('data', 'fsdp'))
  turns = fewest(b // shards, fast // (size * n))
  rows = queries(n, fast // size)

  # Every device goes through its own images: the first axis of a turn lies over the devices.
  def cut(x):
    x = x.reshape(shards, turns, -1, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(turns, -1, *x.shape[3:])

  def joined(x):
    return x.reshape(turns, shards, -1, *x.shape[2:]).swapaxes(0, 1).reshape(b, *x.shape[2:])

  cut_up = tuple(cut(x) for x in (query, key, value))
  return joined(jax.lax.map(lambda turn: in_blocks(*turn, rows), cut_up))


def fewest(images: int, most: int) -> int:
  """The fewest turns that divide so many images into at most so many each."""
  counts = [turns for turns in range(1, images + 1) if images % turns == 0]
  return next(turns for turns in counts if images // turns <= max(1, most))


def queries(n: int, most: int) -> int:
  """How many queries a turn has: all n, or a multiple of `LANES`.

  It is about `most` or less, so that the last turn is filled up with as little as can be.
  """
  if n <= most:
    return n
  least = -(-n // max(most, LANES))
  counts = range(least, 2 * least)
  return min((LANES * -(-n // (count * LANES)) for count in counts), key=lambda rows: -n % rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def in_blocks(query: Array, key: Array, value: Array, rows: int) -> Array:
  """Attention of some queries at a time; its gradient computes the scores again.

  Source: FlashAttention (Dao et al., 2022, arXiv:2205.14135), over blocks of queries alone.
  """
  return forward(query, key, value, rows)[0]


def forward(query, key, value, rows):
  # The sum of the weights is one more column of the product with the values: a matrix unit of 128
  # columns has room for it beside the 40 to 80 of a head.
  values = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)

  def block(query):
    scores = product('nd,md->nm', query, key) * query.shape[-1] ** -0.5
    most = scores.max(-1, keepdims=True)
    out = product('nm,md->nd', jnp.exp(scores - most).astype(value.dtype), values)
    out, total = out[..., :-1], out[..., -1:]
    return (out / total).astype(value.dtype), most + jnp.log(total)

  out, logs = jax.lax.map(block, blocks(query, rows))
  n = query.shape[-2]
  out, logs = kept(joined_blocks(out, n)), kept(joined_blocks(logs, n))
  return out, (query, key, value, out, logs)


def backward(rows, saved, grad):
  query, key, value, out, logs = saved
  n, scale = query.shape[-2], query.shape[-1] ** -0.5
  # The slopes beside the scores take room too. All queries at once stay so: a loop costs more.
  rows = rows if rows == n else queries(n, rows // 2)
  inner = product('nd,nd->n', grad, out)[..., None]

  def block(sums, turn):
    query, grad, logs, inner = turn
    weights = jnp.exp(product('nd,md->nm', query, key) * scale - logs)
    slopes = weights * (product('nd,md->nm', grad, value) - inner)
    weights, slopes = weights.astype(grad.dtype), slopes.astype(grad.dtype)
    of_key, of_value = sums
    of_key += product('nm,nd->md', slopes, query)
    of_value += product('nm,nd->md', weights, grad)
    return (of_key, of_value), (scale * product('nm,md->nd', slopes, key)).astype(query.dtype)

  zeros = jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32)
  turns = tuple(blocks(x, rows) for x in (query, grad, logs, inner))
  (of_key, of_value), of_query = jax.lax.scan(block, zeros, turns)
  of_query = joined_blocks(of_query, n)
  return of_query, (scale * of_key).astype(key.dtype), of_value.astype(value.dtype)


in_blocks.defvjp(forward, backward)


def product(spec: str, first: Array, second: Array) -> Array:
  """A product of every head's matrices, summed in float32."""
  first_axes, rest = spec.split(',')
  second_axes, out = rest.split('->')
  spec = f'bh{first_axes},bh{second_axes}->bh{out}'
  return jnp.einsum(spec, first, second, preferred_element_type=jnp.float32)


def blocks(x: Array, rows: int) -> Array:
  """[b, h, n, d] -> [blocks, b, h, rows, d], the last one filled up with zeros."""
  b, h, n, d = x.shape
  x = jnp.pad(x, ((0, 0), (0, 0), (0, -n % rows), (0, 0)))
  return jnp.moveaxis(x.reshape(b, h, -1, rows, d), 2, 0)


def joined_blocks(x: Array, n: int) -> Array:
  """What `blocks` cut, the first n rows."""
  x = jnp.moveaxis(x, 0, 2)
  return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :n]
