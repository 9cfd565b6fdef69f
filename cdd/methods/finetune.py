"""Owns plain conditional diffusion: the undistilled model that every comparison needs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cdd.core.types import Array, Batch, Nets
from cdd.diffusion import times
from cdd.diffusion.process import Level, Pair, compose, velocity
from cdd.methods.method import Method


def loss(
  nets: Nets,
  batch: Batch,
  rng: Array,
  step: Array,
  *,
  schedule: Callable[[Array], Level],
  num_steps: int,
  sample_t: Callable,
) -> tuple[Array, dict[str, Array]]:
  """The mean squared error of v (Salimans & Ho, 2022), t from 1 to T."""
  t_rng, eps_rng = jax.random.split(rng)
  x = batch.x
  t = sample_t(t_rng, x.shape[0], 1, num_steps)
  real = Pair(x, jax.random.normal(eps_rng, x.shape, x.dtype))
  level = schedule(t)
  error = velocity(real, level) - nets.online(compose(real, level), t, None)
  return jnp.mean(error**2), {}


FINETUNE = Method(loss, networks=('online',), settings=dict(sample_t=times.SAMPLE_T))
