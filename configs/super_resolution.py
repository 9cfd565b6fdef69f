"""Super-resolution of photographs.

  python -m cdd.main --config=super_resolution:tiny     # 200 updates: `make demo`
  python -m cdd.main --config=super_resolution:small    # 600 updates: the table in docs/findings.md
  python -m cdd.main --config=super_resolution:tiny,data=PATH  # on your own pictures
  python -m cdd.plan --config=super_resolution --family=sd21 --topology=v5e:4x4

`tiny` and `small` run on CPU cores, from the packaged prior. The full size (no word after the
colon) trains Stable Diffusion 2.1 at 512 px on 16 chips of TPU v5e. It was planned, and run with a
small model in place of Stable Diffusion; it has not been run on such chips.

The data, data/super_resolution or the PATH of `data=PATH`, is sharp images, with captions beside
them or without, at least as large as a crop:

  train/0001.jpg  train/0001.txt  test/...

docs/own_data.md has all layouts. At the full size the low-resolution images are made on the
accelerator with Real-ESRGAN's degradation, at a quarter of the sides (docs/degradations.md); milder
ones are --config.data.task.degradation.name=stable_sr, bicubic or simple. To encode examples ahead
of training:

  python -m cdd.prepare --config=super_resolution --output=data/sr_prepared --count=1000000
  python -m cdd.main --config=super_resolution:full,prepared=data/sr_prepared

Options, after a comma: `method=finetune` trains the undistilled model that the report compares
with, `adapter=controlnet` uses another adapter, `train=adapter` trains the adapter alone.
configs/common.py lists them all.
"""

from ml_collections import ConfigDict

from configs import common


def photographs(config: ConfigDict, *, cache: int) -> None:
  config.data = dict(
    **common.parts(
      'photos',
      dict(size=64),
      train=dict(split='train', seed=0),
      test=dict(split='test', seed=0),
    ),
    task=dict(name='super_resolution', factor=8, degradation=dict(name='simple')),
    cache=cache,
    **common.PACKAGED,
  )


def get_config(argument: str = 'full') -> ConfigDict:
  chosen = common.parse(argument)
  steps = dict(full=100_000, small=600, tiny=200)
  config = common.experiment('super_resolution', chosen, steps=steps)
  if chosen['method'] == 'conditional':
    # The window is short, because the low resolution leaves little open. Below Δt the target
    # network is not trained, so the consistency term does not count there.
    config.method.update(dict(x_weight=16.0, s_min=config.method.dt))
  config.evaluation.condition_row = 'bicubic'
  if chosen['size'] == 'full':
    task = dict(name='super_resolution', factor=4, degradation=dict(name='real_esrgan'))
    common.large(config, chosen, prior=common.HUB['sd21_base'], size=512, task=task)
  else:
    photographs(config, cache=dict(small=8000, tiny=0)[chosen['size']])
    config.evaluation.shipped = common.shipped('super_resolution', chosen)
    common.on_own_data(config, chosen)
  return config
