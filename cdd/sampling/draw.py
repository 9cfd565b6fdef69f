"""Owns the one way from a condition and noise to images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cdd.core.errors import UserError
from cdd.core.types import Array, Params
from cdd.diffusion import tiles
from cdd.diffusion.samplers import loop
from cdd.diffusion.samplers.sampler import Sampler
from cdd.diffusion.times import Timesteps
from cdd.models.guide import Guide
from cdd.models.networks import Networks
from cdd.models.strength import Strength


def draw(
  networks: Networks,
  params: Params,
  raw: dict[str, Array],
  z: Array,
  rng: jax.Array,
  *,
  sampler: Sampler,
  times: Sequence[int],
  clip: float | None = None,
  guide: Guide | None = None,
  scale: Array | float | None = None,
  tile: int | None = None,
  strength: Strength | None = None,
) -> Array:
  """Images [b, H, W, 3] in [0, 1] of noise z [b, h, w, c]; to be compiled.

  What is not finite becomes NaN, not black or white.

  Args:
    raw: tokens and what the adapter reads, a batch of each.
    rng: a key, or one per image.
    sampler, times, clip: how z is denoised (`loop.run`).
    guide: guidance, or None.
    scale: of the guidance that the network is given as a number, or None.
    tile: the side of overlapping tiles of latents, or None.
    strength: of the adapter; None is 1 at all times.
  """
  check_steps(networks, sampler, times)
  c = networks.condition(params, raw, tile=tile)
  tiling = None
  if tile is not None:
    tiling = tiles.tiling(z.shape[1:3], tile=tile, overlap=tile // 2)
  how = dict(guide=guide, scale=scale, tiling=tiling, strength=strength)
  denoise = networks.denoiser(params, c, **how)
  schedule = networks.schedule
  x = loop.run(sampler, denoise, z, rng, schedule=schedule, times=times, clip=clip)
  images = networks.decode(params, x, tile=tile)
  return jnp.where(jnp.isfinite(images), jnp.clip(images, 0, 1), jnp.nan)


def check_steps(networks: Networks, sampler: Sampler, times: Sequence[int]) -> None:
  """Refuses steps that a network which is given its step was not trained for.

  Raises:
    UserError: names the numbers of steps that can be taken.
  """
  counts = networks.beside.counts
  if not (counts and sampler.few):
    return
  count, total = len(times) - 1, networks.schedule.num_steps
  if count not in counts or tuple(times) != Timesteps().times(total, count):
    raise UserError(
      f'The model was not trained for {count} steps at {tuple(times)}. Choose one of '
      f'{sorted(counts)} steps with the spacing trailing, or the sampler ddim, which '
      'gives it no step.'
    )
