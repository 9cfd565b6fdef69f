"""Owns what a method is: a loss, and what the rest of the code must know about it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Method(NamedTuple):
  """A way to train.

  Attributes:
    loss: (nets, batch, rng, step, *, schedule, num_steps, **settings) -> (scalar, metrics), where
      nets is a `Nets`, batch a `Batch`, and metrics the scalars to log.
    networks: the fields of `Nets` that it calls.
    settings: setting -> the table of functions that it may name, as dict(name=..., **settings).
    sampler: the entry of SAMPLERS that suits what it makes; None for an autoencoder.
    plots: the logged scalars that its report draws, the loss first.
  """

  loss: Callable
  networks: tuple[str, ...]
  settings: Mapping[str, Mapping[str, Callable]] = {}
  sampler: str | None = 'ddim'
  plots: tuple[str, ...] = ('loss',)
