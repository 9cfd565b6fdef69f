"""Owns what an adapter is, and the record that makes one."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from cdd.core.types import Array, Condition, Params
from cdd.models.time import Time
from cdd.models.unet import Encoder, Features, UNetConfig


class Adapter(Protocol):
  """An nnx.Module that makes the U-Net's encoder see the condition.

  It is made by `Kind(unet_config, *, dtype, rngs, **settings)`. It may change what goes into the
  encoder (an 8-channel input), what happens inside (T2I-Adapter) or what comes out (μ-mixing,
  ControlNet).

  Attributes:
    reads: what it reads of an example, name -> space, an entry of `networks.SPACES`.
    copies_unet_below: where in it a copy of the U-Net's encoder begins; None: nowhere.
  """

  reads: Mapping[str, str]
  copies_unet_below: str | None

  def hints(self, c: Condition) -> Any:
    """What it makes of the condition alone: computed once per image, for θ and θ⁻."""

  def features(self, unet: Encoder, z: Array, time: Time, c: Condition, hints: Any) -> Features:
    """The encoder's features with the condition; calls `unet.encode` (Eq. 10).

    An adapter whose strength can be chosen takes a further `strength: Array | None = None`,
    [b, 1, 1, 1]: at 0 the features are those of the U-Net alone.
    """


class WidensUNet(Protocol):
  """An adapter that needs another U-Net than the prior's."""

  @staticmethod
  def prepare(config: UNetConfig, params: Params, **settings) -> tuple[UNetConfig, Params]:
    """The U-Net that it needs, of a flat tree that holds the prior's below 'unet.'."""


class Spec(NamedTuple):
  """What makes an adapter: `ADAPTERS[name](unet, **settings)`.

  Attributes:
    name: its name in ADAPTERS.
    unet: the encoder that it copies, or the whole U-Net ('concat'); None where it needs none.
    settings: the rest, as `config.model.adapter` has them.
  """

  name: str
  unet: UNetConfig | None
  settings: dict[str, Any]


def joined(c: Condition, reads: Mapping[str, str]) -> Array:
  """What an adapter reads, side by side in the channels, in the order in which it names them."""
  return jnp.concatenate([c.arrays[name] for name in reads], axis=-1)


def padded(kernel: Array, inputs: int) -> np.ndarray:
  """A convolution's kernel [h, w, i, o] with zeros for input channels that are new."""
  kernel = np.asarray(kernel)
  return np.pad(kernel, ((0, 0), (0, 0), (0, inputs - kernel.shape[2]), (0, 0)))


def has_strength(kind: type) -> bool:
  """Whether the strength of a kind of adapter can be chosen."""
  return 'strength' in inspect.signature(kind.features).parameters


def parameters(kind: type) -> dict[str, Any]:
  """The settings that a kind of adapter takes, with their defaults."""
  settings = inspect.signature(kind.__init__).parameters.values()
  keywords = [p for p in settings if p.kind is p.KEYWORD_ONLY and p.name not in ('dtype', 'rngs')]
  return {p.name: p.default for p in keywords}
