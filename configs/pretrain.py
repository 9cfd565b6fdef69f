"""The packaged prior: a small text-to-image latent diffusion model of scenes and photographs.

The first five of six stages, on 2 CPU cores; docs/prior.md says how long they took. Each reads
the export of the one above it and resumes where it stopped:

  python -m cdd.main --config=pretrain:autoencoder
  python -m cdd.main --config=pretrain:prior
  python -m cdd.main --config=pretrain:autoencoder_longer
  python -m cdd.main --config=pretrain:prior_longer
  python -m cdd.main --config=pretrain:prior_longest

Each of the last four exports a complete diffusers folder. `make prior` trained the last one's
further, in PyTorch, to what cdd/assets/prior is (`long` below).
"""

import os
from functools import partial

from ml_collections import ConfigDict

from configs import common

VAE = dict(
  in_channels=3,
  out_channels=3,
  latent_channels=4,
  block_out_channels=(24, 48, 96),
  layers_per_block=1,
  norm_num_groups=8,
)
UNET = dict(
  in_channels=4,
  out_channels=4,
  block_out_channels=(32, 64, 128),
  down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
  up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
  layers_per_block=1,
  cross_attention_dim=128,
  attention_head_dim=4,
  norm_num_groups=8,
  sample_size=16,
)
TEXT = dict(
  hidden_size=128,
  intermediate_size=512,
  num_hidden_layers=2,
  num_attention_heads=4,
)
SCHEDULER = dict(
  _class_name='DDIMScheduler',
  beta_schedule='scaled_linear',
  beta_start=0.00085,
  beta_end=0.016,
  num_train_timesteps=1000,
  prediction_type='v_prediction',
  rescale_betas_zero_snr=False,
  timestep_spacing='trailing',
  clip_sample=False,
)
# What benchmarks draw of a prior.
CAPTIONS = (
  'a red ball on a white floor',
  'a blue block on an orange floor in front of a pink wall',
  'a green cylinder on a checkered floor',
  'a yellow ball and a purple block',
  'a large shiny brown ball on a gray floor under a blue sky',
  'a white striped cube on a green floor',
  'a photo of a meadow and autumn trees below a mountain',
  'a photo of the veins of a green leaf',
  'a large purple ball in front of a yellow wall',
  'a small cyan cube on a gray floor',
  'an orange cylinder on a blue floor under a sunset sky',
  'a pink ball and a green cube on a white floor',
  'a shiny black cylinder on an orange floor',
  'a red striped cylinder on a gray floor in front of a white wall',
  'a brown cube and a cyan ball in front of a pink wall',
  'a large yellow cube under a blue sky',
)


def mixture(size: int, *, start: int, split: str, **settings) -> dict:
  """Scenes, by these settings, and packaged photographs in turns."""
  scenes = dict(name='scenes', size=size, start=start, **settings)
  return dict(name='mixture', sources=(scenes, dict(name='photos', split=split, size=size)))


def data(size: int) -> dict:
  return dict(
    source=mixture(size, start=10_000, split='train'),
    held_out=mixture(size, start=0, split='test'),
    task=dict(name='text_to_image'),
    batch_size=32,
    caption_dropout=0.1,
    threads=2,
    workers=0,
  )


def autoencoder() -> ConfigDict:
  config = common.base()
  config.name = 'pretrain_autoencoder'
  config.evaluation = None
  config.steps = 2000
  config.prior = dict(path=None, new=dict(vae=VAE))
  config.model.adapter = dict(name='none')
  config.trainable = (('vae[.].*', 'train'),)
  config.data = data(64)
  config.data.batch_size = 16
  config.method = dict(name='autoencoder', perceptual_weight=0.5, kl_weight=1e-5)
  config.target = dict(name='ema', decay=0.998, warmup=True)
  config.optimizer.learning_rate = 1e-3
  config.log.samples_every = 250
  config.log.checkpoint_every = 250
  config.log.every = 5
  return config


def autoencoder_longer() -> ConfigDict:
  """Trains the autoencoder of the export of `prior` further, by Muon."""
  config = autoencoder()
  config.name = 'pretrain_autoencoder_longer'
  config.steps = 1800
  config.optimizer.update(dict(name='muon', learning_rate=1.5e-3, hold=0.3))
  config.prior = dict(path='runs/pretrain_prior/export')
  config.trainable = (('vae[.].*', 'train'), ('.*', 'freeze'))
  return config


def prior() -> ConfigDict:
  config = common.base()
  config.name = 'pretrain_prior'
  config.evaluation = None
  config.steps = 3600
  config.prior = dict(
    path='runs/pretrain_autoencoder/export',
    new=dict(
      unet=UNET, text_encoder=TEXT, scheduler=SCHEDULER, tokenizer=dict(vocab_size=1024, length=48)
    ),
  )
  config.model.adapter = dict(name='none')
  config.trainable = (('unet[.].*|text_encoder[.].*', 'train'), ('vae[.].*', 'freeze'))
  config.data = data(64)
  config.data.cache = 40_000
  config.method = dict(name='finetune', sample_t=dict(name='per_example'))
  config.target = dict(name='ema', decay=0.999, warmup=True)
  config.optimizer.learning_rate = 6e-4
  config.optimizer.warmup = 200
  config.optimizer.hold = 0.6
  return config


def prior_longer() -> ConfigDict:
  """Trains the U-Net and the text encoder further, on the latents of the better autoencoder."""
  config = prior()
  config.name = 'pretrain_prior_longer'
  config.steps = 3600
  config.prior = dict(path='runs/pretrain_autoencoder_longer/export')
  config.data.cache = 30_000
  config.optimizer.update(dict(name='muon', learning_rate=1e-3, hold=0.47))
  return config


def prior_longest() -> ConfigDict:
  """Trains the U-Net alone, at times that decide the layout, with three scenes to a photograph.

  Text encoder and autoencoder are frozen, so that models distilled from the previous stage remain
  valid.
  """
  config = prior_longer()
  config.name = 'pretrain_prior_longest'
  config.steps = 2600
  config.prior = dict(path='runs/pretrain_prior_longer/export')
  starts = (100_000, 200_000, 300_000)
  scenes = tuple(dict(name='scenes', size=64, start=start, length=100_000) for start in starts)
  photos = dict(name='photos', split='train', size=64)
  config.data.source = dict(name='mixture', sources=(*scenes, photos))
  config.data.cache = 40_000
  config.method.sample_t = dict(name='logit_normal')
  config.trainable = (('unet[.].*', 'train'), ('.*', 'freeze'))
  config.optimizer.hold = 0.6
  return config


def levels(widths: tuple[int, ...], side: int, channels: int) -> dict:
  """The fields of a U-Net on side x side latents; levels of at most 8x8 positions attend."""
  attends = [side // 2**level <= 8 for level in range(len(widths))]

  def kinds(way):
    return tuple(f'{"CrossAttn" * attend}{way}Block2D' for attend in attends)

  return dict(
    UNET,
    in_channels=channels,
    out_channels=channels,
    block_out_channels=widths,
    down_block_types=kinds('Down'),
    up_block_types=kinds('Up')[::-1],
    sample_size=side,
  )


# The settings of `shape` for each candidate; benchmarks/shapes.py trains and measures them.
# large: 128 px. With four times the positions a picture's mean colour is known better than at 64
# px at the same noise, so that the schedule has to end with less signal.
LARGE = dict(size=128, beta_end=0.02)
SHAPES = dict(
  present=dict(widths=(32, 64, 128)),
  logit_normal=dict(widths=(32, 64, 128), sample_t=dict(name='logit_normal')),
  wide=dict(widths=(64, 128, 128)),
  wide_inside=dict(widths=(32, 128, 256)),
  patches=dict(widths=(128, 192), patch=2),
  large=dict(widths=(32, 64, 128), patch=2, **LARGE),
  large_wide=dict(widths=(64, 128, 192), patch=2, **LARGE),
)


def shape(
  name: str,
  *,
  widths: tuple[int, ...],
  size: int = 64,
  patch: int = 1,
  beta_end: float = SCHEDULER['beta_end'],
  sample_t: dict | None = None,
) -> ConfigDict:
  """A candidate for the prior's shape: a new U-Net beside the packaged autoencoder and words.

  Args:
    widths: of the U-Net's levels.
    size: side of the pictures in pixels.
    patch: side of the patches of latents that are stacked into channels.
    beta_end: where the noise schedule ends.
    sample_t: how training draws times; uniform if None.
  """
  config = prior_longest()
  config.name = f'pretrain_shape_{name}'
  config.steps = 1000
  unet = levels(widths, size // 4 // patch, 4 * patch**2)
  new = dict(unet=unet, scheduler=dict(SCHEDULER, beta_end=beta_end))
  config.prior = dict(path='packaged', new=new, replace=dict(vae=dict(patch=patch)))
  config.data.source.sources = tuple(dict(one, size=size) for one in config.data.source.sources)
  config.data.held_out = mixture(size, start=0, split='test')
  config.data.cache = 12_000
  config.method.sample_t = sample_t or dict(name='per_example')
  config.optimizer.update(dict(warmup=50, hold=0.5))
  config.log.update(dict(samples_every=0, checkpoint_every=200))
  return config


# What `make photos` fetched; the Makefile says where.
PHOTOS = os.environ.get('CDD_PHOTOS', os.path.expanduser('~/.cache/cdd/photos'))


def long_source(part: int) -> dict:
  """What a part of the long training reads: of 24 examples 20 are scenes, 2 photographs, one a
  texture and one a nebula, and no scene is in two parts.
  """
  starts = range(part * 1_000_000, (part + 1) * 1_000_000, 50_000)
  scenes = [
    dict(name='scenes', size=64, start=start, length=50_000, **common.SIMPLE) for start in starts
  ]
  photos = [
    dict(name='image_folder', path=f'{PHOTOS}/{kind}', split='train', size=64, seed=seed)
    for seed, kind in enumerate(('natural', 'natural', 'textures', 'nebulae'), 4 * part)
  ]
  mixed = [one for turn in range(4) for one in (*scenes[5 * turn : 5 * turn + 5], photos[turn])]
  return dict(name='mixture', sources=tuple(mixed))


def long() -> ConfigDict:
  """The packaged U-Net and text encoder, trained further (benchmarks/long_prior.py).

  `cdd.main` trains them on the first part alone.
  """
  config = prior_longest()
  config.name = 'pretrain_long'
  config.steps = 19_000  # With the examples before, three million.
  config.prior = dict(path='packaged')
  config.trainable = (('unet[.].*|text_encoder[.].*', 'train'), ('.*', 'freeze'))
  config.data.source = long_source(1)
  config.data.held_out = mixture(64, start=0, split='test', **common.SIMPLE)
  config.data.update(dict(batch_size=128, cache=48_000))
  config.method.sample_t = dict(name='per_example')
  config.target.decay = 0.999
  config.optimizer.update(dict(learning_rate=1.4e-3, warmup=100, hold=0.5))
  return config


def gpu() -> ConfigDict:
  """A wider U-Net from nothing on one GPU, within minutes (benchmarks/gpu.sh)."""
  config = long()
  config.name = 'pretrain_gpu'
  config.steps = 20_000
  config.prior = dict(path='packaged', new=dict(unet=levels((64, 128, 128), 16, 4)))
  config.data.update(dict(batch_size=512, workers=14))
  config.target.decay = 0.9995
  config.optimizer.update(dict(learning_rate=2e-3, warmup=200, hold=0.6))
  return config


STAGES = dict(
  autoencoder=autoencoder,
  autoencoder_longer=autoencoder_longer,
  prior=prior,
  prior_longer=prior_longer,
  prior_longest=prior_longest,
  gpu=gpu,
  long=long,
  **{f'shape_{name}': partial(shape, name, **settings) for name, settings in SHAPES.items()},
)


def get_config(argument: str = 'prior') -> ConfigDict:
  if argument not in STAGES:
    raise ValueError(f'Unknown stage {argument!r}; choose one of {sorted(STAGES)}.')
  return STAGES[argument]()
