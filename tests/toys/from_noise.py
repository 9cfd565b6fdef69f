"""A method: the signal is predicted from pure noise alone."""

import jax
import jax.numpy as jnp

from cdd.diffusion.distances import DISTANCES
from cdd.diffusion.process import Pair, compose, decompose
from cdd.methods.method import Method


def loss(nets, batch, rng, step, *, schedule, num_steps, distance, weight: float = 1.0):
  """The distance of x and its prediction at t = T."""
  t = jnp.full((batch.x.shape[0], 1, 1, 1), num_steps)
  z = compose(Pair(batch.x, jax.random.normal(rng, batch.x.shape)), schedule(t))
  x = decompose(z, nets.online(z, t, 0 * t), schedule(t)).x
  return weight * distance(batch.x, x), dict(largest=jnp.abs(batch.x - x).max())


FROM_NOISE = Method(
  loss,
  networks=('online',),
  settings=dict(distance=DISTANCES),
  sampler='consistency',
  plots=('loss', 'largest'),
)
