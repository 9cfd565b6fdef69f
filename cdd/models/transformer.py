"""Owns the transformer of the U-Net: self-attention, cross-attention to the text, feed-forward."""

import jax.numpy as jnp
from flax import nnx

from cdd.core.types import Array
from cdd.models.blocks import GroupNorm, conv
from cdd.models.ops.activations import gelu
from cdd.models.ops.attention import attend


class Attention(nnx.Module):
  """Queries [b, n, d] attend to a context [b, m, k]."""

  def __init__(self, channels, context, *, heads, dtype, rngs):
    def linear(inputs, bias):
      return nnx.Linear(inputs, channels, use_bias=bias, dtype=dtype, rngs=rngs)

    self.to_q = linear(channels, False)
    self.to_k, self.to_v = linear(context, False), linear(context, False)
    self.to_out = nnx.List([linear(channels, True)])
    self.heads = heads

  def __call__(self, x: Array, context: Array | None = None) -> Array:
    context = x if context is None else context
    return self.to_out[0](attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class GEGLU(nnx.Module):
  def __init__(self, channels, hidden, *, dtype, rngs):
    self.proj = nnx.Linear(channels, 2 * hidden, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    hidden, gate = jnp.split(self.proj(x), 2, axis=-1)
    return hidden * gelu(gate)


class FeedForward(nnx.Module):
  def __init__(self, channels, *, dtype, rngs):
    hidden = 4 * channels
    # diffusers keeps a dropout at index 1, which holds no parameters.
    self.net = nnx.Dict(
      {
        '0': GEGLU(channels, hidden, dtype=dtype, rngs=rngs),
        '2': nnx.Linear(hidden, channels, dtype=dtype, rngs=rngs),
      }
    )

  def __call__(self, x: Array) -> Array:
    return self.net['2'](self.net['0'](x))


class BasicTransformerBlock(nnx.Module):
  """x + attention(x), x + attention(x, text), x + feed-forward(x), each of a normalised x."""

  def __init__(self, channels, context, *, heads, dtype, rngs):
    def layer_norm():
      return nnx.LayerNorm(channels, epsilon=1e-5, dtype=dtype, rngs=rngs)

    self.norm1, self.norm2, self.norm3 = layer_norm(), layer_norm(), layer_norm()
    self.attn1 = Attention(channels, channels, heads=heads, dtype=dtype, rngs=rngs)
    self.attn2 = Attention(channels, context, heads=heads, dtype=dtype, rngs=rngs)
    self.ff = FeedForward(channels, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, text: Array) -> Array:
    x = x + self.attn1(self.norm1(x))
    x = x + self.attn2(self.norm2(x), text)
    return x + self.ff(self.norm3(x))


class Transformer2DModel(nnx.Module):
  """Transformer blocks over the pixels of [b, h, w, c], between two projections."""

  def __init__(self, channels, context, *, heads, depth, groups, linear, dtype, rngs):
    self.norm = GroupNorm(channels, groups, epsilon=1e-6)
    make = (
      (lambda: nnx.Linear(channels, channels, dtype=dtype, rngs=rngs))
      if linear
      else (lambda: conv(channels, channels, 1, dtype=dtype, rngs=rngs))
    )
    self.proj_in, self.proj_out = make(), make()

    def block():
      return BasicTransformerBlock(channels, context, heads=heads, dtype=dtype, rngs=rngs)

    self.transformer_blocks = nnx.List([block() for _ in range(depth)])
    self.linear = linear

  def __call__(self, x: Array, text: Array) -> Array:
    b, h, w, c = x.shape

    def tokens(y):
      return y.reshape(b, h * w, c)

    def pixels(y):
      return y.reshape(b, h, w, c)

    y = self.norm(x)
    # A 1x1 convolution and a linear layer commute with the reshape; the kernels' shapes differ.
    y = self.proj_in(tokens(y)) if self.linear else tokens(self.proj_in(y))
    for block in self.transformer_blocks:
      y = block(y, text)
    return x + (pixels(self.proj_out(y)) if self.linear else self.proj_out(pixels(y)))
