"""Owns the layers that the U-Net and the autoencoder share, named as diffusers names them."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from cdd.core.types import Array

# From 1024 x 1024 scores on, attention goes by blocks of queries (docs/performance.md).
LARGE, BLOCK = 2**20, 512


# Of 2^f for |f| <= 1/2, by Taylor: log(2)^n / n!, the highest n first.
POWER_OF_2 = tuple(math.log(2) ** n / math.factorial(n) for n in range(6, -1, -1))


def silu(x: Array) -> Array:
  """x σ(x). XLA's CPU backend takes two to four times as long by its own exponential."""
  return x * jax.lax.platform_dependent(x, cpu=sigmoid, default=jax.nn.sigmoid)


@jax.custom_jvp
def sigmoid(x: Array) -> Array:
  """σ(x) in float32 of nothing but sums, products and one quotient, within 2e-7 of 1."""
  y = jnp.clip(x.astype(jnp.float32) * -math.log2(math.e), -126, 126)
  whole = jnp.round(y)
  exponential = jnp.polyval(jnp.array(POWER_OF_2), y - whole, unroll=7)
  two_to_whole = (whole.astype(jnp.int32) + 127) << 23  # A float32's exponent.
  exponential = exponential * jax.lax.bitcast_convert_type(two_to_whole, jnp.float32)
  return (1 / (1 + exponential)).astype(x.dtype)


@sigmoid.defjvp
def _(primals, tangents):
  (x,), (dx,) = primals, tangents
  s = sigmoid(x)
  return s, s * (1 - s) * dx


def gelu(x: Array) -> Array:
  """The exact one. jax.nn.gelu goes by erfc, on XLA's CPU backend three times slower than erf."""
  return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def conv(
  inputs: int, outputs: int, kernel: int, *, dtype, rngs, stride: int = 1, zero: bool = False
):
  """A convolution padded by kernel // 2 on both sides, as PyTorch pads it."""
  pad = kernel // 2
  zeros = dict(kernel_init=nnx.initializers.zeros) if zero else {}
  return nnx.Conv(
    inputs,
    outputs,
    (kernel, kernel),
    strides=stride,
    padding=((pad, pad), (pad, pad)),
    dtype=dtype,
    rngs=rngs,
    **zeros,
  )


class GroupNorm(nnx.Module):
  """Group normalisation in float32: the moments of every channel, then one scale and one shift.

  nnx.GroupNorm reduces over groups of channels, on XLA's CPU backend two to four times slower.
  """

  def __init__(self, channels: int, groups: int, *, epsilon: float):
    self.scale = nnx.Param(jnp.ones(channels))
    self.bias = nnx.Param(jnp.zeros(channels))
    self.groups, self.epsilon = groups, epsilon

  def __call__(self, x: Array) -> Array:
    x = x.astype(jnp.float32)
    mean, square = self.of_groups(x.mean((1, 2))), self.of_groups((x * x).mean((1, 2)))
    variance = jnp.maximum(square - mean * mean, 0)
    scale = self.scale[None] * jax.lax.rsqrt(variance + self.epsilon)
    shift = self.bias[None] - mean * scale
    return x * scale[:, None, None] + shift[:, None, None]

  def of_groups(self, moments: Array) -> Array:
    """Moments of channels [b, c], averaged over the channels of each group, [b, c] again."""
    b, c = moments.shape
    means = moments.reshape(b, self.groups, -1).mean(-1)
    return jnp.repeat(means, c // self.groups, axis=1)


def enlarge(x: Array) -> Array:
  """Nearest-neighbour x2: [b, h, w, c] -> [b, 2h, 2w, c]."""
  b, h, w, c = x.shape
  return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def phases(kernel: Array) -> Array:
  """[3, ...] -> [2, 2, ...]: what three taps on enlarged pixels are on the two pixels they meet.

  The even pixels of the enlarged row come first, the odd ones second.
  """
  first, middle, last = kernel
  even, odd = (first, middle + last), (first + middle, last)
  return jnp.stack([jnp.stack(even), jnp.stack(odd)])


def enlarged(conv: nnx.Conv, x: Array) -> Array:
  """conv(enlarge(x)) of a convolution of 3 x 3 taps, [b, h, w, c] -> [b, 2h, 2w, d].

  Each of the output's four phases is a 2 x 2 convolution of x: 4/9 of the products.
  """
  kernel = phases(jnp.moveaxis(phases(conv.kernel[...].swapaxes(0, 1)), 2, 0))
  kernel, bias, x = (v.astype(conv.dtype) for v in (kernel, conv.bias[...], x))
  order = ('NHWC', 'HWIO', 'NHWC')

  def phase(row: int, column: int) -> Array:
    pads = ((1 - row, row), (1 - column, column))
    taps = kernel[row, :, column]
    return jax.lax.conv_general_dilated(x, taps, (1, 1), pads, dimension_numbers=order)

  rows = [jnp.stack([phase(row, column) for column in (0, 1)], 3) for row in (0, 1)]
  b, h, w, _ = x.shape
  return jnp.stack(rows, 2).reshape(b, 2 * h, 2 * w, -1) + bias[None, None, None]


def attend(query: Array, key: Array, value: Array, heads: int, *, mask: Array | None = None):
  """Multi-head attention [b, n, d], [b, m, d], [b, m, d] -> [b, n, d]; softmax in float32.

  Args:
    mask: [n, m]; where it is False, a query does not see a key.
  """
  # Heads first: XLA's CPU backend is four times slower where they lie between n and d.
  split = lambda x: x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)
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


class ResnetBlock2D(nnx.Module):
  """Two normalised convolutions around a time embedding, with a shortcut."""

  def __init__(self, inputs, outputs, *, groups, epsilon, embedding=None, dtype, rngs):
    self.norm1 = GroupNorm(inputs, groups, epsilon=epsilon)
    self.conv1 = conv(inputs, outputs, 3, dtype=dtype, rngs=rngs)
    if embedding:
      self.time_emb_proj = nnx.Linear(embedding, outputs, dtype=dtype, rngs=rngs)
    self.norm2 = GroupNorm(outputs, groups, epsilon=epsilon)
    self.conv2 = conv(outputs, outputs, 3, dtype=dtype, rngs=rngs)
    if inputs != outputs:
      self.conv_shortcut = conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, emb: Array | None = None) -> Array:
    h = self.conv1(silu(self.norm1(x)))
    if emb is not None:
      h = h + self.time_emb_proj(silu(emb))[:, None, None, :]
    h = self.conv2(silu(self.norm2(h)))
    return (self.conv_shortcut(x) if hasattr(self, 'conv_shortcut') else x) + h


class Downsample2D(nnx.Module):
  """A stride-2 convolution; the autoencoder pads below and to the right alone."""

  def __init__(self, channels, *, asymmetric=False, dtype, rngs):
    self.conv = nnx.Conv(
      channels,
      channels,
      (3, 3),
      strides=2,
      padding=((0, 1), (0, 1)) if asymmetric else ((1, 1), (1, 1)),
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, x: Array) -> Array:
    return self.conv(x)


class Upsample2D(nnx.Module):
  """Nearest-neighbour x2 and a convolution."""

  def __init__(self, channels, *, dtype, rngs):
    self.conv = conv(channels, channels, 3, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, size: tuple[int, int] | None = None) -> Array:
    """`size`: height and width of the output, where the input was the larger half of an odd one."""
    height, width = size or (None, None)
    if size in (None, (2 * x.shape[1], 2 * x.shape[2])):
      return enlarged(self.conv, x)
    # What is cut off is not seen by the convolution, which pads with zeros there.
    return self.conv(enlarge(x)[:, :height, :width])
