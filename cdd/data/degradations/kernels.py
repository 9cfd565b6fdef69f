"""Owns the kernels that Real-ESRGAN blurs with: six bivariate families, and sinc filters.

Source: BasicSR's data/degradations.py and Real-ESRGAN's data/realesrgan_dataset.py, which make them
with NumPy. Here every number may be traced. A kernel has 21 x 21 weights whose sum is 1; a smaller
one is surrounded by zeros.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision

from cdd.core.types import Array

WIDTH = 21
SIZES = tuple(range(7, WIDTH + 1, 2))
# name -> how often it is drawn.
FAMILIES = dict(
  iso=0.45,
  aniso=0.25,
  generalized_iso=0.12,
  generalized_aniso=0.03,
  plateau_iso=0.12,
  plateau_aniso=0.03,
)
NODES = 48  # Of the quadrature of J1, which is exact to float32 below its argument 44.5 = 10 √2 π.


class Bivariate(NamedTuple):
  """A kernel of one of the families, by its numbers.

  Attributes:
    size: 7, 9, ... 21.
    sigma_x, sigma_y: standard deviations in pixels along the axes, before they are turned.
    angle: of the turn, in radians.
    beta: the exponent of the squared distance; 1 for a Gaussian.
    plateau: whether it is 1 / (1 + q^beta), not exp(-q^beta / 2).
  """

  size: Array
  sigma_x: Array
  sigma_y: Array
  angle: Array
  beta: Array
  plateau: Array


def _grid(size) -> tuple[Array, Array, Array]:
  """(x, y, which of the positions a kernel of this size has), each [21, 21]."""
  reach = WIDTH // 2
  y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
  inside = np.maximum(abs(x), abs(y)) <= size // 2
  return x.astype(np.float32), y.astype(np.float32), inside


def _normalized(values: Array, inside: Array) -> Array:
  values = jnp.where(inside, values, 0)
  # XLA's sum goes through all weights in one row, and a large one makes it lose the small ones.
  ones = np.ones(WIDTH, np.float32)
  columns = jnp.dot(ones, values, precision=Precision.HIGHEST)
  return values / jnp.dot(columns, ones, precision=Precision.HIGHEST)


def bivariate(numbers: Bivariate) -> Array:
  """The kernel [21, 21] of a family."""
  x, y, inside = _grid(numbers.size)
  cos, sin = jnp.cos(numbers.angle), jnp.sin(numbers.angle)
  along, across = cos * x + sin * y, cos * y - sin * x
  q = (along / numbers.sigma_x) ** 2 + (across / numbers.sigma_y) ** 2
  q = q**numbers.beta
  return _normalized(jnp.where(numbers.plateau, 1 / (1 + q), jnp.exp(-q / 2)), inside)


def j1(x: Array) -> Array:
  """Bessel's J1 for |x| < 45, to about 1e-6, by Bessel's integral over cos(τ - x sin τ).

  jax.scipy.special.bessel_jn gives NaN in this range. The midpoint rule of a smooth periodic
  function converges faster than any power of the number of nodes.
  """
  nodes = ((np.arange(NODES) + 0.5) * np.pi / NODES).astype(np.float32)
  nodes = nodes.reshape(*[1] * x.ndim, NODES)
  return jnp.cos(nodes - x[..., None] * np.sin(nodes)).mean(-1)


def sinc(size: Array, cutoff: Array) -> Array:
  """The circular low-pass filter [21, 21]: cutoff · J1(cutoff · r) / (2π r).

  Args:
    cutoff: angular frequency in radians per pixel, at most π.
  """
  x, y, inside = _grid(size)
  radius = np.hypot(x, y)
  far = np.where(radius > 0, radius, 1)
  values = cutoff * j1(cutoff * far) / (2 * np.pi * far)
  return _normalized(jnp.where(radius > 0, values, cutoff**2 / (4 * np.pi)), inside)


def pulse() -> np.ndarray:
  """The kernel that changes nothing."""
  return np.pad(np.ones((1, 1), np.float32), WIDTH // 2)


def within(share: Array, bounds: Sequence[float | Array]) -> Array:
  """The number at a share of a range."""
  return bounds[0] + share * (bounds[1] - bounds[0])


def _size(share: Array) -> Array:
  return 2 * jnp.floor(share * len(SIZES)).astype(jnp.int32) + SIZES[0]


def _exponent(side: Array, share: Array, bounds: Sequence[float]) -> Array:
  """An exponent: half of them below 1, half above."""
  low, high = within(share, (bounds[0], 1)), within(share, (1, bounds[1]))
  return jnp.where(side < 0.5, low, high)


def draw_bivariate(
  key: Array,
  size: Array,
  *,
  sigma: Sequence[float],
  generalized: Sequence[float],
  plateau: Sequence[float],
) -> Bivariate:
  """The numbers of a kernel of a random family.

  Args:
    sigma: range of the standard deviations.
    generalized, plateau: ranges of the exponents of these families.
  """
  which, x, y, turn, side, share = jax.random.uniform(key, (6,))
  family = (which >= np.cumsum([*FAMILIES.values()], dtype=np.float32)[:-1]).sum()

  def among(word):
    return jnp.array([word in name for name in FAMILIES])[family]

  sigma_x, isotropic = within(x, sigma), ~among('aniso')
  beta = jnp.where(among('generalized'), _exponent(side, share, generalized), 1.0)
  return Bivariate(
    size=size,
    sigma_x=sigma_x,
    sigma_y=jnp.where(isotropic, sigma_x, within(y, sigma)),
    angle=jnp.where(isotropic, 0.0, within(turn, (-np.pi, np.pi))),
    beta=jnp.where(among('plateau'), _exponent(side, share, plateau), beta),
    plateau=among('plateau'),
  )


def draw(
  key: Array,
  *,
  sinc_share: float,
  sigma: Sequence[float],
  generalized: Sequence[float],
  plateau: Sequence[float],
) -> Array:
  """A random kernel [21, 21]: a sinc filter with probability `sinc_share`, else of a family."""
  key, of_family = jax.random.split(key)
  size, kind, cutoff = jax.random.uniform(key, (3,))
  size = _size(size)
  low = jnp.where(size < 13, np.pi / 3, np.pi / 5)
  ranges = dict(sigma=sigma, generalized=generalized, plateau=plateau)
  return jax.lax.cond(
    kind < sinc_share,
    lambda: sinc(size, within(cutoff, (low, np.pi))),
    lambda: bivariate(draw_bivariate(of_family, size, **ranges)),
  )


def draw_final(key: Array, *, share: float) -> Array:
  """The last filter [21, 21]: a sinc filter with probability `share`, else one of no effect."""
  size, kind, cutoff = jax.random.uniform(key, (3,))
  return jax.lax.cond(
    kind < share,
    lambda: sinc(_size(size), within(cutoff, (np.pi / 3, np.pi))),
    lambda: jnp.asarray(pulse()),
  )
