"""Depth-to-image.

  python -m cdd.main --config=configs/depth.py:tiny     # scenes, the packaged prior, minutes
  python -m cdd.main --config=configs/depth.py:small    # the same for hours: the shipped adapter
  python -m cdd.main --config=configs/depth.py          # Stable Diffusion 2.1, 512 px, TPU v5e-16

Options, after a comma: `method=finetune` trains the undistilled model that the report compares to,
`adapter=controlnet` another adapter, `train=adapter` that alone (configs/common.py lists them all).
"""

from ml_collections import ConfigDict

from configs import common

TASK = dict(name='depth', depth_kind='metric')


def scenes(config: ConfigDict, *, cache: int) -> None:
  config.data = dict(
    source=dict(name='scenes', size=64, seed=0, start=10_000),
    held_out=dict(name='scenes', size=64, seed=0, start=0, length=1024),
    task=TASK,
    batch_size=32,
    caption_dropout=0.1,
    threads=2,
    workers=0,
    cache=cache,
  )


def full(config: ConfigDict) -> None:
  config.prior = dict(path='stabilityai/stable-diffusion-2-1')
  config.model.update(dict(dtype='bfloat16', remat=True))
  config.data = dict(
    source=dict(name='image_folder', path='data/depth/train'),
    held_out=dict(name='image_folder', path='data/depth/test'),
    task=dict(name='depth', depth_kind='inverse'),
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
  steps = dict(full=50_000, small=800, tiny=200)
  config = common.experiment('depth', chosen, steps=steps)
  config.evaluation.condition_row = 'condition'
  if chosen['size'] == 'full':
    full(config)
  else:
    scenes(config, cache=dict(small=8000, tiny=0)[chosen['size']])
    config.evaluation.shipped = common.shipped('depth', chosen)
  return config
