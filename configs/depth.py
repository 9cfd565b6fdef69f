"""Depth-to-image.

  python -m cdd.main --config=depth:tiny     # 200 updates on scenes: `make demo TASK=depth`
  python -m cdd.main --config=depth:small    # 800 updates: the table in README.md
  python -m cdd.plan --config=depth --family=sd21 --topology=v5e:4x4

`tiny` and `small` run on CPU cores, from the packaged prior. The full size (no word after the
colon) is a plan for Stable Diffusion 2.1 at 512 px on 16 chips of TPU v5e. It has not been run and
cannot run yet: no source reads images with depth maps, and the size of the crops is not stated.

Options, after a comma: `method=finetune` trains the undistilled model that the report compares
with, `adapter=controlnet` uses another adapter, `train=adapter` trains the adapter alone.
configs/common.py lists them all.
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
  config.prior = dict(path=common.HUB['sd21'])
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
