"""The packaged prior: a small text-to-image latent diffusion model of scenes and photographs.

Five stages on 2 CPU cores; docs/prior.md says how long they took. Each reads the export of the one
above it and resumes where it stopped:

  python -m cdd.main --config=pretrain:autoencoder
  python -m cdd.main --config=pretrain:prior
  python -m cdd.main --config=pretrain:autoencoder_longer
  python -m cdd.main --config=pretrain:prior_longer
  python -m cdd.main --config=pretrain:prior_longest

Each of the last four exports a complete diffusers folder; cdd/assets/prior is a copy of the last.
"""

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


def mixture(size: int, *, start: int, split: str) -> dict:
  scenes = dict(name='scenes', size=size, start=start)
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


STAGES = dict(
  autoencoder=autoencoder,
  autoencoder_longer=autoencoder_longer,
  prior=prior,
  prior_longer=prior_longer,
  prior_longest=prior_longest,
)


def get_config(argument: str = 'prior') -> ConfigDict:
  if argument not in STAGES:
    raise ValueError(f'Unknown stage {argument!r}; choose one of {sorted(STAGES)}.')
  return STAGES[argument]()
