"""Owns what turns a model into images: a run, a diffusers folder, or what ships, as a function."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.registry import choose, fits, make
from cdd.core.types import Params
from cdd.core.words import counted
from cdd.data import TASKS, prompts, tokens
from cdd.data.tasks.inpaint import from_picture as with_hole
from cdd.data.tasks.task import Task, as_lines, as_rgb
from cdd.diffusion import times
from cdd.diffusion.samplers import SAMPLERS
from cdd.diffusion.samplers.sampler import Sampler
from cdd.methods import METHODS
from cdd.models import casts
from cdd.models.adapters import concat
from cdd.models.guide import Guide
from cdd.models.networks import Networks
from cdd.models.strength import Strength, within
from cdd.models.time import LCM
from cdd.pretrained import adapter_folders, locate, priors, scheduler, trained
from cdd.sampling import sizes
from cdd.sampling.draw import draw
from cdd.sampling.settings import Settings, check
from cdd.sampling.spread import check as check_given
from cdd.sampling.spread import check_pixels, fitting, noise, shape_of, spread


class Pipeline(NamedTuple):
  """A model that is called with prompts.

  Attributes:
    networks, params: the networks and all their parameters.
    tokenize: text -> dict of int32 arrays, and what it cuts off.
    size: (height, width) in pixels that the U-Net was trained at; None: its config says nothing.
    multiple: what divides the sides of what the U-Net sees where it halves it evenly, in pixels.
    sampler: the name of the sampler that suits the model.
    timesteps: which times it is sampled at; for a diffusers folder as its scheduler_config.json
      says.
    task: how a user's picture becomes a condition.
    draw: the compiled function.
  """

  networks: Networks
  params: Params
  tokenize: tokens.Reader
  size: tuple[int, int] | None
  multiple: int
  sampler: str
  timesteps: times.Timesteps
  task: Task
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
    **settings,
  ) -> np.ndarray:
    """Images float32 [b, H, W, 3] in [0, 1]; b is the longest of what is given, one is repeated.

    Args:
      prompts: one, or one per image.
      condition: [H, W, 3] or [b, H, W, 3] in [0, 1], as the model was trained with it; for a model
        that reads a mask [..., 4], the mask last, 1 where the picture is to be painted.
      negative: what guidance leads away from; None is the model's idea of no text.
      seeds: one per image, on which alone the image's noise depends; s means s, s + 1, ...
      size: (H, W) in pixels; the condition's, or what the U-Net was trained at, if None.
      latents: the noise to start from, [b, H/f, W/f, c], in place of the seeds'; H and W are those
        of the padded condition.
      settings: the fields of `Settings`.

    Raises:
      UserError: names what does not fit.
    """
    settings = Settings(**settings)
    check(settings)
    settings = self.resolved(settings)
    listed = dict(prompts=prompts, negative=negative, condition=condition, latents=latents)
    given = spread(listed | dict(seeds=seeds))
    check_given(given)
    asked, made, tile = self.plan(given['condition'], size, settings)
    style = self.style(given, settings)
    raw = self.words(given['prompts'], made, style)
    if condition is not None:
      padded = sizes.pad(given['condition'], made)
      check_pixels(padded)
      raw.update(condition=padded[..., :3], mask=padded[..., 3:])
    guide = self.guide(given['negative'], made, settings, style)
    z, keys = noise(given['seeds'], self.networks.latent_shape((1, *made, 3))[1:])
    z = z if latents is None else fitting(given['latents'], z)
    timesteps = self.timesteps_of(settings)
    static = dict(
      sampler=settings.sampler,
      visited=timesteps.times(self.networks.schedule.num_steps, settings.steps),
      clip=timesteps.clip,
      tile=tile and tile // self.networks.factor,
    )
    strength = self.strength(settings, static['visited'])
    images = np.asarray(self.draw(self.params, raw, guide, z, keys, strength, **static))
    images = images[:, : asked[0], : asked[1]]
    self.check_finite(images, raw, guide)
    return images

  def guide(
    self,
    negative: Sequence[str | None],
    size: tuple[int, int],
    settings: Settings,
    style: prompts.Style = prompts.PLAIN,
  ) -> dict | None:
    """What `draw` guides away from, for images of a size in pixels; None without guidance."""
    if self.is_given_scale(settings):
      return self.given(negative, settings)
    if not settings.guides:
      return None
    return dict(self.words(negative, size, style), **settings.scales())

  def is_given_scale(self, settings: Settings) -> bool:
    """Whether the U-Net is given the guidance scale: one that is given its step only with it."""
    beside = self.networks.beside
    return bool(beside.guidance) and (sampler_of(settings.sampler).few or not beside.counts)

  def given(self, negative: Sequence[str | None], settings: Settings) -> dict[str, float]:
    """The guidance scale as it is given to the U-Net; a UserError for what it cannot be told."""
    least, most = self.networks.beside.guidance
    if not least <= settings.guidance <= most:
      raise UserError(
        f'guidance is {settings.guidance:g}; in few steps this model takes {least:g} to {most:g}. '
        'Any goes with the sampler ddim, by two predictions a step.'
      )
    told = dict(image_guidance=settings.image_guidance, rescale=settings.rescale or None)
    for name, value in dict(negative=next(filter(None, negative), None), **told).items():
      if value is not None:
        raise UserError(f'{name} is {value!r}; this model is given the guidance scale alone.')
    return dict(scale=settings.guidance)

  def strength(self, settings: Settings, times: Sequence[int]) -> Strength | None:
    """The adapter's strength, or None where it acts as it was trained.

    Raises:
      UserError: there is no adapter whose strength could be chosen, or it would act in no step.
    """
    part = settings.adapter_part
    if part == Settings().adapter_part:
      return None
    if not self.networks.has_strength:
      raise UserError(
        'adapter_strength, adapter_start and adapter_end are for an adapter beside the U-Net; this '
        + (
          "model's U-Net reads the condition itself." if self.networks.reads else 'model has none.'
        )
      )
    return within(times, **part)

  def check_finite(self, images: np.ndarray, *words: dict | None) -> None:
    """Refuses images that hold NaN; the words are what each text was read from.

    Raises:
      UserError: names the images, and the first network whose numbers are not finite.
    """
    bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
    if bad.size:
      texts = [self.networks.text(self.params, raw) for raw in words if raw and 'tokens' in raw]
      fine = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(texts))
      cause = 'the U-Net, the adapter or the autoencoder' if fine else 'the text encoder'
      raise UserError(
        f'{len(bad)} of {counted(len(images), "image")} (the first is number {bad[0]}) not finite: '
        f'{cause} overflowed or has damaged weights. float16 overflows first; choose the dtype '
        'float32 or bfloat16.'
      )

  def resolved(self, settings: Settings) -> Settings:
    """The same with the model's sampler, steps, spacing and guidance where none is given."""
    name = settings.sampler or self.sampler
    steps = settings.steps or sampler_of(name).steps
    settings = settings._replace(sampler=name, steps=steps)
    if settings.guidance is None:
      given = self.networks.beside.scale if self.is_given_scale(settings) else 1.0
      settings = settings._replace(guidance=given)
    return settings._replace(spacing=self.timesteps_of(settings).spacing)

  def timesteps_of(self, settings: Settings) -> times.Timesteps:
    """The model's timesteps, or those of a few-step sampler, with the spacing that is asked for."""
    sampler = sampler_of(settings.sampler)
    timesteps = times.Timesteps(sampler.spacing) if sampler.few else self.timesteps
    return timesteps._replace(spacing=settings.spacing or timesteps.spacing)

  def style(self, given: dict[str, Sequence], settings: Settings) -> prompts.Style:
    """How the prompts are read, with the chunks that the longest of them needs."""
    texts = [*given['prompts'], *(given['negative'] if settings.guides else ())]
    return prompts.fitted(self.tokenize, [text or '' for text in texts], settings.style)

  def words(
    self,
    texts: Sequence[str | None],
    size: tuple[int, int],
    style: prompts.Style = prompts.PLAIN,
  ) -> dict[str, np.ndarray]:
    """The tokens of texts, None being no prompt, and the sizes that SDXL reads."""
    for text in dict.fromkeys(texts):
      if cut := prompts.cut(self.tokenize, text or '', style):
        more = '' if style.long else ' (--long_prompts reads all of it)'
        message = 'The prompt %r is too long; its end is left out%s: %r.'
        logging.warning(message, text, more, cut)
    read = [prompts.read(self.tokenize, text or '', style) for text in texts]
    words = {name: np.stack([each[name] for each in read]) for name in read[0]}
    present = np.float32([text is not None for text in texts])
    return dict(words, present=present, sizes=np.float32([[*size, 0, 0, *size]] * len(texts)))

  def plan(self, condition: Sequence, size, settings: Settings) -> sizes.Sizes:
    """The sizes of the images; a UserError if a condition, a size or a tile does not fit."""
    reads = self.networks.reads
    given = shape_of(condition, channels=3 + ('mask' in reads))
    if (given is None) != (not reads):
      raise UserError(f'This model {"needs a" if given is None else "takes no"} condition image.')
    if settings.image_guidance is not None and not reads:
      raise UserError('image_guidance is for models that see a condition.')
    if not (size or given or self.size):
      raise UserError('The U-Net names no sample_size; give a size, height and width in pixels.')
    size = size or given or self.size
    size = tuple(size) if isinstance(size, Iterable) else (size,)
    if len(size) != 2 or not fits(size, tuple[int, ...]):
      raise UserError(f'The size is two whole numbers, height and width, not {size}.')
    if given and size != given:
      raise UserError(f'The size {size} is not that of the condition image, {given}.')
    units = dict(trained=self.size, multiple=self.multiple, factor=self.networks.factor)
    planned = sizes.plan(size, conditional=given is not None, tile=settings.tile, **units)
    if done := sizes.described(planned, self.size, settings.tile):
      logging.warning('%s.', done[0].upper() + done[1:])
    return planned


def sampler_of(name: str) -> Sampler:
  """The sampler of a name, with its defaults; a UserError lists the choices."""
  return choose(SAMPLERS, name, 'sampler')()


def compiled(networks: Networks) -> Callable:
  """The compiled way from tokens, a condition, what guidance leads away from, and noise."""

  @partial(jax.jit, static_argnames=('sampler', 'visited', 'clip', 'tile'))
  def run(params, raw, negative, z, keys, strength=None, *, sampler, visited, clip, tile):
    static = dict(sampler=sampler_of(sampler), times=visited, clip=clip, tile=tile)
    guided = {} if negative is None else guidance(networks, params, negative)
    return draw(networks, params, raw, z, keys, **guided, strength=strength, **static)

  return run


def guidance(networks: Networks, params: Params, negative: dict) -> dict:
  """Guidance as `draw` takes it: away from texts, or without them the scale that is given."""
  if 'tokens' not in negative:
    return dict(scale=negative['scale'])
  how = {name: negative[name] for name in ('scale', 'image_scale', 'rescale')}
  return dict(guide=Guide(networks.text(params, negative), **how))


def load(
  path: str | Path,
  *,
  step: int | None = None,
  adapter: str | None = None,
  vae: str | None = None,
  dtype: str = 'float32',
) -> Pipeline:
  """The model at a path.

  Args:
    path: a run's folder or its export/; a diffusers folder or a hub's 'owner/name'; 'packaged',
      the prior that ships, or 'packaged:depth' and the like, the models that ship.
    step: of a run's checkpoint, in place of what it exported; of a run that has not ended, the
      newest checkpoint is taken if None.
    adapter: a folder of an adapter in diffusers' layout, beside a diffusers folder.
    vae: an autoencoder in place of the model's own: its folder, a pipeline's that has one, or a
      hub's 'owner/name'; an AutoencoderKL or AutoencoderTiny whose latents have as many channels.
    dtype: what the networks compute in.

  Raises:
    UserError: nothing is there, or something that is no model.
  """
  found = locate.locate(path, step=step)
  if found.config is None:
    return of_folder(found.path, adapter, dtype, vae)
  if adapter:
    raise UserError(f'{path} is a trained model with its adapter; leave --adapter out.')
  return of_run(found, dtype, vae)


def of_run(found: locate.Found, dtype: str, vae: str | None = None) -> Pipeline:
  """What a run trained, with the prior that it started from."""
  config = ConfigDict(found.config)
  config.model.dtype = dtype
  config.prior.vae = vae or config.prior.get('vae')
  prior = priors.load(config.prior, found.path, ())
  networks, added = priors.networks(config.model, prior, beside=priors.beside_of(config.method))
  everything = {**prior.params, **added}
  everything |= trained.load(found.weights, trees.labelled(config.trainable, everything)['train'])
  sampler = choose(METHODS, config.method.name, 'method').sampler
  task = make(TASKS, config.data.task, 'task')
  settings = dict(sampler=sampler, timesteps=times.Timesteps(), task=task)
  return of_parts(prior, networks, everything, dtype, **settings)


def of_folder(folder: Path, adapter: str | None, dtype: str, vae: str | None = None) -> Pipeline:
  """A diffusers folder, alone or with an adapter's."""
  prior = priors.load(ConfigDict(dict(path=str(folder), vae=vae)), folder, ())
  missing = {'unet', 'vae', 'text_encoder'} - prior.configs.keys()
  if missing or not prior.tokenizers or not prior.scheduler:
    lacking = sorted(missing) or ['tokenizer' if prior.scheduler else 'scheduler']
    raise UserError(f'{folder} is no text-to-image pipeline: it has no {", no ".join(lacking)}.')
  unet = prior.configs['unet']
  inputs = {concat.inputs(unet.out_channels, masked): masked for masked in (False, True)}
  spec = dict(name='none')
  if unet.in_channels in inputs:
    spec = dict(name='concat', masked=inputs[unet.in_channels])
  if adapter:
    spec = dict(name=adapter_folders.config_of(Path(adapter)).name, path=str(adapter))
  networks, added = priors.networks(ConfigDict(dict(adapter=spec, dtype=dtype)), prior)
  params, timesteps = {**prior.params, **added}, scheduler.timesteps(prior.scheduler)
  read = as_lines if adapter and spec['name'] != 'concat' else as_rgb
  read = with_hole if 'mask' in networks.reads else read
  task = Task(draw=lambda example, rng: example, from_picture=read)
  few = 'consistency' if networks.beside.counts else 'ddim'
  sampler = 'lcm' if networks.beside == LCM else few
  return of_parts(prior, networks, params, dtype, sampler=sampler, timesteps=timesteps, task=task)


def trained_size(sides: int | tuple[int, int] | None, factor: int) -> tuple[int, int] | None:
  """(height, width) in pixels of a U-Net's `sample_size`; None where it has none."""
  pair = sides if isinstance(sides, tuple) else (sides, sides)
  return None if sides is None else tuple(factor * side for side in pair)


def of_parts(prior, networks: Networks, params: Params, dtype: str, **fields) -> Pipeline:
  """A Pipeline of a prior's networks; `fields` are those that the networks do not say."""
  unet = prior.configs['unet']
  return Pipeline(
    networks=networks,
    params=jax.device_put(casts.held(params, prior.configs, dtype)),
    tokenize=priors.reader(prior),
    size=trained_size(unet.sample_size, networks.factor),
    multiple=networks.factor * 2 ** (len(unet.block_out_channels) - 1),
    draw=compiled(networks),
    **fields,
  )
