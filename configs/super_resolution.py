"""Super-resolution of photographs.

  python -m cdd.main --config=configs/super_resolution.py:tiny     # what `make demo` runs
  python -m cdd.main --config=configs/super_resolution.py:small    # the same for hours
  python -m cdd.main --config=configs/super_resolution.py         # Stable Diffusion 2.1, a TPU

Options, after a comma: `method=finetune` trains the undistilled model that the report compares to,
`adapter=controlnet` another adapter, `train=adapter` that alone (configs/common.py lists them all).
"""

from ml_collections import ConfigDict

from configs import common


def photographs(config: ConfigDict, *, cache: int) -> None:
  config.data = dict(
    source=dict(name='photos', split='train', size=64, seed=0),
    held_out=dict(name='photos', split='test', size=64, seed=0),
    task=dict(name='super_resolution', factor=8, degradation=dict(name='simple')),
    batch_size=32,
    caption_dropout=0.1,
    threads=2,
    workers=0,
    cache=cache,
  )


def full(config: ConfigDict) -> None:
  config.prior = dict(path='stabilityai/stable-diffusion-2-1-base')
  config.model.update(dict(dtype='bfloat16', remat=True))
  config.data = dict(
    source=dict(name='image_folder', path='data/super_resolution/train'),
    held_out=dict(name='image_folder', path='data/super_resolution/test'),
    task=dict(name='super_resolution', factor=4, degradation=dict(name='real_esrgan')),
    batch_size=256,
    caption_dropout=0.1,
    threads=2,
    workers=16,
  )
  config.optimizer.learning_rate = 1e-5
  config.accumulate = 2
  config.mesh = dict(data=-1, fsdp=16)


def get_config(argument: str = 'full') -> ConfigDict:
  chosen = common.parse(argument)
  steps = dict(full=100_000, small=600, tiny=200)
  config = common.experiment('super_resolution', chosen, steps=steps)
  if chosen['method'] == 'conditional':
    # A short window, as the low resolution leaves little open, and no target where none is taught.
    config.method.update(dict(x_weight=16.0, s_min=config.method.dt))
  if chosen['size'] == 'full':
    full(config)
  else:
    photographs(config, cache=dict(small=8000, tiny=0)[chosen['size']])
    config.evaluation.condition_row = 'bicubic'
    config.evaluation.shipped = common.shipped('super_resolution', chosen)
  return config
