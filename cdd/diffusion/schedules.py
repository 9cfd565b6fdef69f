"""Owns noise schedules: a table of T + 1 rows, row 0 clean, and the backbone's index t − 1."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdd.diffusion.process import Level, rectified_flow, variance_preserving


class Schedule(NamedTuple):
  """The levels of t = 0 .. T.

  Attributes:
    alphas, sigmas: float32 [T + 1] each.
    process: (α, σ) -> the level, with its derivatives.
  """

  alphas: jax.Array
  sigmas: jax.Array
  process: Callable[[jax.Array, jax.Array], Level] = variance_preserving

  def __call__(self, t: jax.Array) -> Level:
    """The level at t, int32 [b, 1, 1, 1]."""
    return self.process(self.alphas[t], self.sigmas[t])

  @property
  def table(self) -> Level:
    """The levels of all t, [T + 1] each."""
    return self.process(self.alphas, self.sigmas)

  @property
  def num_steps(self) -> int:
    """T."""
    return self.alphas.shape[0] - 1


def index(t: jax.Array) -> jax.Array:
  """The index that a backbone trained on 0 .. T − 1 gives to t = 1 .. T; t = 0 reads its first."""
  return jnp.maximum(t - 1, 0)


def from_alpha_bars(alpha_bars: np.ndarray, *, zero_terminal_snr: bool = False) -> Schedule:
  """The variance-preserving table of ᾱ_1 .. ᾱ_T, with the clean row put before it.

  Args:
    zero_terminal_snr: shifts and scales √ᾱ so that α_T = 0 (Lin et al., 2024, Algorithm 1).
  """
  alphas = np.sqrt(np.asarray(alpha_bars, np.float64))
  if zero_terminal_snr:
    alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
  alphas = np.concatenate([[1.0], alphas])
  return _tabulated(alphas, np.sqrt(1 - alphas**2), variance_preserving)


def _tabulated(alphas: np.ndarray, sigmas: np.ndarray, process: Callable) -> Schedule:
  return Schedule(jnp.asarray(alphas, jnp.float32), jnp.asarray(sigmas, jnp.float32), process)


def scaled_linear(
  *,
  num_steps: int = 1000,
  beta_start: float = 0.00085,
  beta_end: float = 0.012,
  zero_terminal_snr: bool = False,
) -> Schedule:
  """Stable Diffusion's table: √β linear."""
  betas = np.linspace(beta_start**0.5, beta_end**0.5, num_steps) ** 2
  return from_alpha_bars(np.cumprod(1 - betas), zero_terminal_snr=zero_terminal_snr)


def linear(
  *,
  num_steps: int = 1000,
  beta_start: float = 0.0001,
  beta_end: float = 0.02,
  zero_terminal_snr: bool = False,
) -> Schedule:
  """β linear (Ho et al., 2020)."""
  betas = np.linspace(beta_start, beta_end, num_steps)
  return from_alpha_bars(np.cumprod(1 - betas), zero_terminal_snr=zero_terminal_snr)


def cosine(*, num_steps: int = 1000, zero_terminal_snr: bool = False) -> Schedule:
  """ᾱ a squared cosine, β at most 0.999 (Nichol & Dhariwal, 2021)."""
  bar = np.cos((np.arange(num_steps + 1) / num_steps + 0.008) / 1.008 * np.pi / 2) ** 2
  betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
  return from_alpha_bars(np.cumprod(1 - betas), zero_terminal_snr=zero_terminal_snr)


def flow(*, num_steps: int = 1000, shift: float = 1.0) -> Schedule:
  """Rectified flow, σ from 0 to 1.

  Args:
    shift: σ = shift·u / (1 + (shift − 1)·u) of an even u (Esser et al., 2024, Eq. 23); 1 is even.
  """
  even = np.arange(num_steps + 1) / num_steps
  sigmas = shift * even / (1 + (shift - 1) * even)
  return _tabulated(1 - sigmas, sigmas, rectified_flow)


SCHEDULES = dict(cosine=cosine, flow=flow, linear=linear, scaled_linear=scaled_linear)


def from_diffusers(config: Mapping[str, Any]) -> Schedule:
  """The schedule of a diffusers `scheduler_config.json`.

  Raises:
    ValueError: a beta_schedule other than linear, scaled_linear or squaredcos_cap_v2.
  """
  zero_terminal_snr = config.get('rescale_betas_zero_snr', False)
  if config.get('trained_betas') is not None:
    alpha_bars = np.cumprod(1 - np.asarray(config['trained_betas'], np.float64))
    return from_alpha_bars(alpha_bars, zero_terminal_snr=zero_terminal_snr)
  common = dict(
    num_steps=config.get('num_train_timesteps', 1000),
    zero_terminal_snr=zero_terminal_snr,
  )
  betas = dict(beta_start=config.get('beta_start', 0.0001), beta_end=config.get('beta_end', 0.02))
  makers = dict(
    linear=lambda: linear(**common, **betas),
    scaled_linear=lambda: scaled_linear(**common, **betas),
    squaredcos_cap_v2=lambda: cosine(**common),
  )
  name = config.get('beta_schedule', 'linear')
  if name not in makers:
    raise ValueError(f'Unknown beta_schedule {name!r}; choose one of {sorted(makers)}.')
  return makers[name]()
