"""Depth-to-image.

  python -m cdd.main --config=depth:tiny            # 200 updates on scenes: `make demo TASK=depth`
  python -m cdd.main --config=depth:small           # 800 updates: the table in README.md
  python -m cdd.main --config=depth:tiny,data=PATH  # on your own pictures
  python -m cdd.plan --config=depth --family=sd21 --topology=v5e:4x4

`tiny` and `small` run on CPU cores, from the packaged prior. The full size (no word after the
colon) trains Stable Diffusion 2.1 at 512 px on 16 chips of TPU v5e. It was planned, and run with a
small model in place of Stable Diffusion; it has not been run on such chips.

The data, data/depth or the PATH of `data=PATH`, is images with depth maps and captions beside them:

  train/0001.jpg  train/0001.depth.png  train/0001.txt  test/...

or in the columns of train/metadata.jsonl; docs/own_data.md has all layouts. The depth is inverse,
bright meaning near, as MiDaS and Depth Anything estimate it; for distances give
--config.data.task.depth_kind=metric. To encode it ahead of training:

  python -m cdd.prepare --config=depth --output=data/depth_prepared --count=1000000
  python -m cdd.main --config=depth:full,prepared=data/depth_prepared

Options, after a comma: `method=finetune` trains the undistilled model that the report compares
with, `adapter=controlnet` uses another adapter, `train=adapter` trains the adapter alone.
configs/common.py lists them all.
"""

from ml_collections import ConfigDict

from configs import common

TASK = dict(name='depth', depth_kind='metric')


def scenes(config: ConfigDict, *, cache: int) -> None:
  config.data = dict(
    **common.parts(
      'scenes',
      dict(size=64, **common.SIMPLE),
      train=dict(seed=0, start=10_000),
      test=dict(seed=0, start=0, length=1024),
    ),
    task=TASK,
    cache=cache,
    **common.PACKAGED,
  )


def get_config(argument: str = 'full') -> ConfigDict:
  chosen = common.parse(argument)
  steps = dict(full=50_000, small=800, tiny=200)
  config = common.experiment('depth', chosen, steps=steps)
  config.evaluation.condition_row = 'condition'
  config.evaluation.mismatched = 'condition'
  if chosen['size'] == 'full':
    task = dict(TASK, depth_kind='inverse')
    common.large(config, chosen, prior=common.HUB['sd21'], size=512, task=task)
  else:
    config.evaluation.metrics += ('depth',)
    scenes(config, cache=dict(small=8000, tiny=0)[chosen['size']])
    config.evaluation.shipped = common.shipped('depth', chosen)
    common.on_own_data(config, chosen, depth_kind='inverse')
  return config
