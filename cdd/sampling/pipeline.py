"""Owns what turns a model into images: a run, a diffusers folder, or what ships, as a function."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.core.types import Params
from cdd.data import tokens
from cdd.diffusion import tiles, times
from cdd.diffusion.samplers import SAMPLERS
from cdd.models.networks import Guide, Networks
from cdd.pretrained import adapter_folders as adapters
from cdd.pretrained import priors, scheduler, trained
from cdd.runs import experiment as build
from cdd.runs import report
from cdd.runs.export import WEIGHTS

# The samplers of distilled models, which start at T whatever a folder says. Any other: 50 steps.
STEPS = dict(consistency=4, consistency_renoise=4)


class How(NamedTuple):
  """How images are drawn, the same for all of a batch.

  Attributes:
    guidance: towards the prompt; 1 is none and costs one prediction a step, anything else two.
    image_guidance: InstructPix2Pix's second scale; three predictions a step.
    rescale: gives back a part of the deviation that guidance adds (Lin et al., 2024); 0 is none.
    steps: how many; the sampler's own number if None: 4 for 'consistency', 50 for 'ddim'.
    sampler: one of SAMPLERS; the model's own if None.
    spacing: one of times.SPACINGS; the model's own if None.
    tile: the side of overlapping tiles in pixels, for images larger than the model can do.
  """

  guidance: float = 1.0
  image_guidance: float | None = None
  rescale: float = 0.0
  steps: int | None = None
  sampler: str | None = None
  spacing: str | None = None
  tile: int | None = None

  @property
  def guides(self) -> bool:
    """Whether a negative prompt matters at all."""
    return self.guidance != 1 or self.image_guidance not in (None, 1)

  def scales(self) -> dict[str, float | None]:
    """The numbers that the compiled function takes as arguments."""
    return dict(scale=self.guidance, image_scale=self.image_guidance, rescale=self.rescale or None)


class Sampler(NamedTuple):
  """A model that is called with prompts.

  Attributes:
    networks, params: the networks and all their parameters.
    tokenize: text -> dict of int32 arrays.
    size: (height, width) in pixels that the U-Net was trained at.
    multiple: what divides the sides of what the U-Net sees, in pixels.
    sampler: the name of the sampler that suits the model.
    walk: how it goes down the schedule; for a pipeline as its scheduler_config.json says.
    task: `config.data.task` of a run, {} otherwise.
    zero_empty: whether no negative prompt means zeros (SDXL), not the empty text.
    draw: the compiled function.
  """

  networks: Networks
  params: Params
  tokenize: Callable
  size: tuple[int, int]
  multiple: int
  sampler: str
  walk: times.Walk
  task: Mapping[str, Any]
  zero_empty: bool
  draw: Callable

  def __call__(
    self,
    prompts: str | Sequence[str],
    condition: np.ndarray | None = None,
    *,
    negative: str | None | Sequence[str | None] = None,
    seeds: int | Sequence[int] = 0,
    size: tuple[int, int] | None = None,
    latents: np.ndarray | None = None,
    **how,
  ) -> np.ndarray:
    """Images float32 [b, H, W, 3] in [0, 1]; b is the longest of what is given, one is repeated.

    Args:
      prompts: one, or one per image.
      condition: [H, W, 3] or [b, H, W, 3] in [0, 1], as the model was trained with it.
      negative: what guidance leads away from; None is the model's own idea of no text.
      seeds: one per image, on which alone the image's noise depends; s means s, s + 1, ...
      size: (H, W) in pixels; the condition's, or what the U-Net was trained at, if None.
      latents: the noise to start from, [b, H/f, W/f, c], in place of the seeds'.
      how: the fields of `How`.

    Raises:
      UserError: names what does not fit.
    """
    how = self.resolved(How(**how))
    listed = dict(prompts=prompts, negative=negative, condition=condition, latents=latents)
    given = spread(listed | dict(seeds=seeds))
    size = self.checked(given['condition'], size, how)
    raw, away = self.words(given['prompts'], size), None
    if condition is not None:
      raw['condition'] = np.stack(given['condition']).astype(np.float32)
    if how.guides:
      told = [not self.zero_empty or text is not None for text in given['negative']]
      away = dict(self.words(given['negative'], size), told=np.float32(told), **how.scales())
    z, keys = noise(given['seeds'], self.networks.latent_shape((1, *size, 3))[1:])
    z = z if latents is None else fitting(given['latents'], z)
    tile = how.tile and how.tile // self.networks.factor
    walk = self.walk_of(how)
    visited = walk.times(self.networks.schedule.num_steps, how.steps)
    settings = dict(sampler=how.sampler, visited=visited, clip=walk.clip, tile=tile)
    return np.asarray(self.draw(self.params, raw, away, z, keys, **settings))

  def resolved(self, how: How) -> How:
    """The same with the model's own sampler, and its steps and spacing, where none is given."""
    sampler = how.sampler or self.sampler
    choose(SAMPLERS, sampler, 'sampler')
    how = how._replace(sampler=sampler, steps=how.steps or STEPS.get(sampler, 50))
    return how._replace(spacing=self.walk_of(how).spacing)

  def walk_of(self, how: How) -> times.Walk:
    """The model's own walk, or a distilled model's from T; its spacing as `how` asks."""
    walk = times.Walk() if how.sampler in STEPS else self.walk
    return walk._replace(spacing=how.spacing or walk.spacing)

  def words(self, texts: Sequence[str | None], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The tokens of texts, None being the empty one, and the sizes that SDXL is told."""
    read = [self.tokenize(text or '') for text in texts]
    words = {name: np.stack([each[name] for each in read]) for name in read[0]}
    return dict(words, sizes=np.float32([[*size, 0, 0, *size]] * len(texts)))

  def checked(self, condition: Sequence, size, how: How) -> tuple[int, int]:
    """The size of the images; a UserError if a condition, a size or a tile does not fit."""
    space, own = self.networks.condition_space, shape_of(condition)
    if (own is None) != (space == 'none'):
      raise UserError(f'This model {"needs a" if own is None else "takes no"} condition image.')
    if own and size not in (None, own):
      raise UserError(f'The size {size} is not that of the condition image, {own}.')
    if how.image_guidance is not None and space != 'unscaled_latent':
      raise UserError("image_guidance is for models that see the condition beside z ('concat').")
    size = tuple(size or own or self.size)
    # What the U-Net sees is a tile, if there are tiles.
    multiple(size, self.networks.factor if how.tile else self.multiple, 'size')
    multiple((how.tile,) if how.tile else (), self.multiple, 'tile')
    return size


def shape_of(condition: Sequence[np.ndarray | None]) -> tuple[int, int] | None:
  """(height, width) of the condition images, or None without; a UserError if they differ."""
  shapes = {np.shape(image) for image in condition}
  if shapes == {()}:
    return None
  if len(shapes) > 1 or len(min(shapes)) != 3 or min(shapes)[2] != 3:
    raise UserError(f'The condition images should be alike, [H, W, 3], not {sorted(shapes)}.')
  return min(shapes)[:2]


def multiple(sides: tuple[int, ...], unit: int, what: str) -> None:
  if any(side < unit or side % unit for side in sides):
    named = ' x '.join(map(str, sides))
    raise UserError(f'The {what} of {named} pixels has to be a multiple of {unit}.')


def spread(given: dict[str, Any]) -> dict[str, list]:
  """Lists of one length: one prompt, condition or seed goes with all of the others.

  Raises:
    UserError: two lists of more than one are of different lengths.
  """
  single = lambda value: (
    value is None or isinstance(value, (str, int)) or getattr(value, 'ndim', None) == 3
  )
  lists = {name: [v] if single(v) else list(v) for name, v in given.items()}
  counts = {name: len(values) for name, values in lists.items() if len(values) != 1}
  count = max([1, *counts.values()])
  if any(length != count for length in counts.values()):
    what = ', '.join(f'{length} {name}' for name, length in counts.items())
    raise UserError(f'One of each, or as many as images: {what} were given.')
  if isinstance(given.get('seeds'), int):
    lists['seeds'] = [given['seeds'] + index for index in range(count)]
  return {name: values * (count if len(values) == 1 else 1) for name, values in lists.items()}


def noise(seeds: Sequence[int], shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """(z [b, *shape], keys [b]): what a sampler starts from and draws from, per image."""
  keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(jnp.asarray(seeds))
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys[:, 0]), keys[:, 1]


def fitting(latents: Sequence[np.ndarray], z: jax.Array) -> np.ndarray:
  latents = np.stack(latents).astype(np.float32)
  if latents.shape != z.shape:
    raise UserError(f'The latents are {latents.shape}; these images need {z.shape}.')
  return latents


def drawing(networks: Networks) -> Callable:
  """The compiled way from tokens, a condition and noise to images."""

  @partial(jax.jit, static_argnames=('sampler', 'visited', 'clip', 'tile'))
  def draw(params, raw, away, z, keys, *, sampler, visited, clip, tile):
    c = networks.condition(params, raw, tile=tile)
    guide = None
    if away is not None:
      text, told = networks.text(params, away), away['told']
      pooled = None if text.pooled is None else text.pooled * told[:, None]
      text = text._replace(states=text.states * told[:, None, None], pooled=pooled)
      guide = Guide(text, away['scale'], away['image_scale'], away['rescale'])
    tiling = None
    if tile is not None:
      tiling = tiles.tiling(z.shape[1:3], tile=tile, overlap=tile // 2)
    denoise = networks.denoiser(params, c, guide=guide, tiling=tiling)
    walk = dict(schedule=networks.schedule, times=visited, clip=clip)
    x = SAMPLERS[sampler](denoise, z, keys, **walk)
    return jnp.clip(networks.decode(params, x, tile=tile), 0, 1)

  return draw


def load(path: str | Path, *, adapter: str | None = None, dtype: str = 'float32') -> Sampler:
  """The model at a path.

  Args:
    path: a run's folder or its export/; a diffusers folder or a hub's 'owner/name'; 'packaged',
      the prior that ships, or 'packaged:depth' and the like, the models that ship.
    adapter: a folder of an adapter in diffusers' layout, beside a diffusers folder.
    dtype: what the networks compute in.

  Raises:
    UserError: nothing is there, or something that is no model.
  """
  found = trained_model(str(path))
  if found is None:
    return of_pipeline(str(path), adapter, dtype)
  config, weights = found
  if adapter:
    raise UserError(f'{path} is a trained model with an adapter of its own; leave --adapter out.')
  config.model.dtype = dtype
  prior = priors.load(config.prior, weights.parent.parent, ())
  networks, brought = build.adapted_networks(config.model, prior)
  everything = {**prior.params, **brought}
  everything |= trained.load(weights, build.divide(config, everything)[0])
  name = 'consistency' if config.method.name == 'conditional' else 'ddim'
  task = config.data.task.to_dict()
  return of_parts(prior, networks, everything, sampler=name, walk=times.Walk(), task=task)


def trained_model(path: str) -> tuple[ConfigDict, Path] | None:
  """(config, weights) of a run, an export or a shipped model; None if it is none of them."""
  if path.startswith('packaged:'):
    table = {file.stem: file for file in sorted(report.SHIPPED.glob('*.safetensors'))}
    weights = choose(table, path.removeprefix('packaged:'), 'packaged model')
    settings = weights.with_suffix('.json')
  else:
    settings = Path(path) / 'config.json'
    places = [Path(path) / place / WEIGHTS for place in ('.', 'export')]
    weights = next(filter(Path.exists, places), None)
  if not settings.exists():
    return None
  config = json.loads(settings.read_text())
  if 'trainable' not in config:
    return None
  if weights is None:
    if (Path(path) / 'export' / 'model_index.json').exists():
      return None
    raise UserError(f'The run {path} has no export/{WEIGHTS}: it has not ended yet.')
  return ConfigDict(config), weights


def of_pipeline(path: str, adapter: str | None, dtype: str) -> Sampler:
  """A diffusers folder, alone or with an adapter's."""
  exported = Path(path) / 'export'
  folder = str(exported) if (exported / 'model_index.json').exists() else path
  prior = priors.load(ConfigDict(dict(path=folder)), Path(path), ())
  missing = {'unet', 'vae', 'text_encoder'} - prior.configs.keys()
  if missing or not prior.tokenizers or not prior.scheduler:
    lacking = sorted(missing) or ['tokenizer' if prior.scheduler else 'scheduler']
    raise UserError(f'{path} is no text-to-image pipeline: it has no {", no ".join(lacking)}.')
  unet = prior.configs['unet']
  own = 'concat' if unet.in_channels == 2 * unet.out_channels else 'none'
  plug = dict(name=own)
  if adapter:
    plug = dict(name=adapters.config_of(Path(adapter)).name, path=str(adapter))
  spec = ConfigDict(dict(adapter=plug, dtype=dtype))
  networks, brought = build.adapted_networks(spec, prior)
  walk, params = scheduler.walk(prior.scheduler), {**prior.params, **brought}
  return of_parts(prior, networks, params, sampler='ddim', walk=walk, task={})


def of_parts(prior, networks: Networks, params: Params, **own) -> Sampler:
  """A Sampler of a prior's networks; `own` are the fields that no network tells."""
  unet = prior.configs['unet']
  side = unet.sample_size * networks.factor
  return Sampler(
    networks=networks,
    params=jax.device_put(params),
    tokenize=tokens.reader(prior.tokenizers),
    size=(side, side),
    multiple=networks.factor * 2 ** (len(unet.block_out_channels) - 1),
    **own,
    zero_empty=networks.text_encoder_2 is not None
    and prior.index.get('force_zeros_for_empty_prompt', True),
    draw=drawing(networks),
  )
