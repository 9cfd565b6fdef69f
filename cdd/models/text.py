"""Owns the text encoders (transformers' CLIPTextModel, CLIPTextModelWithProjection)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cdd.core.registry import choose
from cdd.core.types import Array
from cdd.models.ops.activations import gelu
from cdd.models.ops.attention import attend

ACTIVATIONS = dict(
  quick_gelu=lambda x: x * jax.nn.sigmoid(1.702 * x),
  gelu=gelu,
)


ROUNDING = 1e-5  # Of a mean of states, as a share of their deviation.
# The end of text of old config.json files, which is not the tokenizer's.
LEGACY_EOS = 2


class TextConfig(NamedTuple):
  """The fields of transformers' config.json that the text encoder uses, with its defaults.

  Attributes:
    projection_dim: channels of the pooled state of CLIPTextModelWithProjection.
    eos_token_id: the token whose state is the pooled one; 2 in old files, whose text ends at its
      largest token.
  """

  vocab_size: int = 49408
  hidden_size: int = 512
  intermediate_size: int = 2048
  num_hidden_layers: int = 12
  num_attention_heads: int = 8
  max_position_embeddings: int = 77
  hidden_act: str = 'quick_gelu'
  layer_norm_eps: float = 1e-5
  projection_dim: int | None = 512
  eos_token_id: int = 49407


class TextOutput(NamedTuple):
  """What a text encoder makes of tokens [b, n].

  Attributes:
    last: [b, n, d] the last states, after the final norm.
    penultimate: [b, n, d] the states that enter the last layer, not normalised.
    pooled: [b, d] of `last`, the state at the end of the text; [b, p], projected, if the model
      projects.
  """

  last: Array
  penultimate: Array
  pooled: Array


class SelfAttention(nnx.Module):
  def __init__(self, config: TextConfig, *, dtype, rngs):
    def linear():
      return nnx.Linear(config.hidden_size, config.hidden_size, dtype=dtype, rngs=rngs)

    self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()
    self.heads = config.num_attention_heads

  def __call__(self, x: Array) -> Array:
    causal = jnp.tril(jnp.ones((x.shape[1],) * 2, bool))
    query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
    return self.out_proj(attend(query, key, value, self.heads, mask=causal))


class MLP(nnx.Module):
  def __init__(self, config: TextConfig, *, dtype, rngs):
    self.fc1 = nnx.Linear(config.hidden_size, config.intermediate_size, dtype=dtype, rngs=rngs)
    self.fc2 = nnx.Linear(config.intermediate_size, config.hidden_size, dtype=dtype, rngs=rngs)
    self.activation = choose(ACTIVATIONS, config.hidden_act, 'text activation')

  def __call__(self, x: Array) -> Array:
    return self.fc2(self.activation(self.fc1(x)))


class Layer(nnx.Module):
  def __init__(self, config: TextConfig, *, dtype, rngs):
    def layer_norm():
      return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, dtype=dtype, rngs=rngs
      )

    self.self_attn = SelfAttention(config, dtype=dtype, rngs=rngs)
    self.layer_norm1, self.layer_norm2 = layer_norm(), layer_norm()
    self.mlp = MLP(config, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    x = x + self.self_attn(self.layer_norm1(x))
    return x + self.mlp(self.layer_norm2(x))


class Embeddings(nnx.Module):
  def __init__(self, config: TextConfig, *, rngs):
    def embed(count):
      return nnx.Embed(
        count, config.hidden_size, embedding_init=nnx.initializers.normal(0.02), rngs=rngs
      )

    self.token_embedding = embed(config.vocab_size)
    self.position_embedding = embed(config.max_position_embeddings)

  def __call__(self, tokens: Array) -> Array:
    positions = self.position_embedding(jnp.arange(tokens.shape[1]))
    return self.token_embedding(tokens) + positions[None]


class Encoder(nnx.Module):
  def __init__(self, config: TextConfig, *, dtype, rngs):
    def make():
      return Layer(config, dtype=dtype, rngs=rngs)

    self.layers = nnx.List([make() for _ in range(config.num_hidden_layers)])


class TextTransformer(nnx.Module):
  def __init__(self, config: TextConfig, *, dtype, rngs):
    self.embeddings = Embeddings(config, rngs=rngs)
    self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
    self.final_layer_norm = nnx.LayerNorm(
      config.hidden_size, epsilon=config.layer_norm_eps, dtype=dtype, rngs=rngs
    )

  def __call__(self, tokens: Array) -> tuple[Array, Array]:
    """The last states, normalised, and those that enter the last layer."""
    x = penultimate = self.embeddings(tokens)
    for layer in self.encoder.layers:
      x, penultimate = layer(x), x
    return self.final_layer_norm(x), penultimate


class CLIPTextModel(nnx.Module):
  """Tokens int32 [b, n] -> TextOutput."""

  def __init__(self, config: TextConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.text_model = TextTransformer(config, dtype=dtype, rngs=rngs)
    self.eos = config.eos_token_id

  def __call__(self, tokens: Array) -> TextOutput:
    last, penultimate = self.text_model(tokens)
    end = jnp.argmax(tokens if self.eos == LEGACY_EOS else tokens == self.eos, axis=-1)
    pooled = jnp.take_along_axis(last, end[:, None, None], axis=1)[:, 0]
    return TextOutput(last, penultimate, pooled)


def read(
  encode: Callable[[Array], TextOutput], tokens: Array, weights: Array | None = None
) -> TextOutput:
  """What an encoder makes of prompts [b, n], or of prompts in chunks [b, k, n].

  The states of chunks, each encoded by itself, follow each other: [b, k n, d]. The pooled state is
  that of the first.

  Args:
    encode: tokens [b, n] -> TextOutput.
    weights: of the tokens, [b, k, n], or None.
  """
  if tokens.ndim == 2:
    return encode(tokens)
  b, k, n = tokens.shape
  out = encode(tokens.reshape(b * k, n))

  def in_turn(states: Array) -> Array:
    if weights is not None:
      states = weighted(states, weights.reshape(b * k, n)).astype(states.dtype)
    return states.reshape(b, k * n, -1)

  pooled = out.pooled.reshape(b, k, -1)[:, 0]
  return TextOutput(in_turn(out.last), in_turn(out.penultimate), pooled)


def weighted(states: Array, weights: Array) -> Array:
  """States [b, n, d] times the weights [b, n] of their tokens, with the mean that they had.

  The mean over a chunk's tokens and channels is restored, as in AUTOMATIC1111's web UI; where it is
  zero but for rounding there is nothing to restore.
  """
  states, scaled = (x.astype(jnp.float32) for x in (states, states * weights[..., None]))
  before, after = (x.mean((1, 2), keepdims=True) for x in (states, scaled))
  deviation = jnp.sqrt((scaled**2).mean((1, 2), keepdims=True))
  known = jnp.abs(after) > ROUNDING * deviation
  return scaled * jnp.where(known, before / jnp.where(known, after, 1), 1)


class CLIPTextModelWithProjection(CLIPTextModel):
  """The same with its pooled state projected (SDXL's second encoder)."""

  def __init__(self, config: TextConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    super().__init__(config, dtype=dtype, rngs=rngs)
    self.text_projection = nnx.Linear(
      config.hidden_size, config.projection_dim, use_bias=False, dtype=dtype, rngs=rngs
    )

  def __call__(self, tokens: Array) -> TextOutput:
    out = super().__call__(tokens)
    return out._replace(pooled=self.text_projection(out.pooled))
