"""Owns the one way from a condition and noise to images."""

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp

from cdd.core.errors import UserError
from cdd.core.types import Array, Params
from cdd.diffusion import tiles
from cdd.diffusion.samplers import loop
from cdd.diffusion.samplers.sampler import Sampler
from cdd.models.guide import Guide
from cdd.models.networks import Networks


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
  tile: int | None = None,
) -> Array:
  """Images [b, H, W, 3] in [0, 1] of noise z [b, h, w, c]; to be compiled.

  Args:
    raw: tokens and what the adapter reads, a batch of each.
    rng: a key, or one per image.
    sampler, times, clip: how z is denoised (`loop.run`).
    guide: guidance, or None.
    tile: the side of overlapping tiles of latents, or None.
  """
  check_steps(networks, sampler, times)
  c = networks.condition(params, raw, tile=tile)
  tiling = None
  if tile is not None:
    tiling = tiles.tiling(z.shape[1:3], tile=tile, overlap=tile // 2)
  denoise = networks.denoiser(params, c, guide=guide, tiling=tiling)
  schedule = networks.schedule
  x = loop.run(sampler, denoise, z, rng, schedule=schedule, times=times, clip=clip)
  return jnp.clip(networks.decode(params, x, tile=tile), 0, 1)


def check_steps(networks: Networks, sampler: Sampler, times: Sequence[int]) -> None:
  """Refuses a step that a network which is given its step was not trained with.

  Raises:
    UserError: names the size, and the numbers of steps that can be taken.
  """
  if not (networks.steps and sampler.few):
    return
  for t, s in pairwise(times):
    if t - s not in networks.steps:
      counts = sorted(networks.schedule.num_steps // size for size in networks.steps)
      raise UserError(
        f'Cannot sample in {len(times) - 1} steps: the model was not trained with a step of '
        f'{t - s}. Choose one of {counts} steps, or the sampler ddim, which gives it no step.'
      )
