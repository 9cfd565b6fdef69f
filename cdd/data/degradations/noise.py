"""Owns noise: Gaussian, and the Poisson noise of photons, each in colour or grey.

Source: BasicSR's data/degradations.py. There a batch shares its pattern of grey Gaussian noise;
here every example has its own.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln

from cdd.core.types import Array
from cdd.data.degradations import filters

GREY = np.float32([0.2989, 0.587, 0.114])  # torchvision's, of red, green and blue.
LARGEST = 512  # Counts of photons are below it: the greatest mean is 256, its deviation 16.


def gaussian(key: Array, image: Array, *, sigma: Array, grey: Array) -> Array:
  """An image [3, H, W] with Gaussian noise, clipped to [0, 1].

  Args:
    sigma: the standard deviation, of 255.
    grey: whether the channels share one pattern.
  """
  noise = jax.random.normal(key, image.shape) * (sigma / 255)
  noise = jnp.where(grey, noise[:1], noise)
  return jnp.clip(image + noise, 0, 1)


def poisson(key: Array, image: Array, size: filters.Size, *, scale: Array, grey: Array) -> Array:
  """An image [3, H, W] with Poisson noise, clipped to [0, 1].

  White is as many photons as the image has levels of 255, rounded up to a power of two.

  Args:
    size: (h, w), the part of the canvas that the image fills.
    scale: what the noise is multiplied with.
    grey: whether it is the noise of the grey image, in all channels.
  """
  shades = jnp.tensordot(GREY, image, 1)[None]
  levels = _eight_bits(jnp.where(grey, shades, image))
  power = white(levels, filters.inside(image.shape, size))
  photons = drawn(jax.random.bits(key, image.shape), levels, power)
  noise = photons / jnp.exp2(power) - levels / 255
  return jnp.clip(image + scale * jnp.where(grey, noise[:1], noise), 0, 1)


def _eight_bits(image: Array) -> Array:
  return jnp.clip(jnp.round(image * 255), 0, 255).astype(jnp.int32)


def white(levels: Array, inside: Array) -> Array:
  """log2 of the number of photons of white: ceil(log2(how many different levels there are)).

  Args:
    levels: int32 in 0..255.
    inside: which of them count.
  """
  seen = jnp.zeros(257, bool).at[jnp.where(inside, levels, 256)].set(True)
  return (seen[:256].sum() > 2 ** np.arange(8)).sum().astype(jnp.int32)


@functools.cache
def distribution() -> np.ndarray:
  """P(count <= n) in units of 2^-32, uint32 [9, 256, 512], by log2 of white, level and n.

  The mean is level · white / 255: an image of eight bits has few means, so that a table holds the
  distributions of all of them, and a count is found by bisection.
  """
  mean = np.arange(256)[None, :, None] * 2.0 ** np.arange(9)[:, None, None] / 255
  n = np.arange(LARGEST)
  with np.errstate(divide='ignore', invalid='ignore'):
    logarithm = np.where(n == 0, 0, n * np.log(mean)) - mean - gammaln(n + 1)
  below = np.exp(logarithm).cumsum(-1)
  return np.minimum(np.round(below * 2.0**32), 2**32 - 1).astype(np.uint32)


def drawn(bits: Array, levels: Array, power: Array) -> Array:
  """Counts of photons whose distribution is Poisson's, exact to 2^-32, float32.

  jax.random.poisson draws by rejection, in a loop that is slow on CPUs, and refuses some keys.

  Args:
    bits: uint32, uniform.
    levels: int32 in 0..255, of the same shape; one channel may stand for all.
    power: log2 of the number of photons of white, in 0..8.
  """
  table = jnp.asarray(distribution()).reshape(-1)
  start = (power * 256 + levels) * LARGEST
  count = jnp.zeros(bits.shape, jnp.int32)
  for step in (256, 128, 64, 32, 16, 8, 4, 2, 1):
    beyond = table[start + (count + step - 1)] <= bits
    count = jnp.where(beyond, count + step, count)
  return count.astype(jnp.float32)
