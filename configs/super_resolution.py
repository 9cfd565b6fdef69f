"""Super-resolution of photographs.

  python -m cdd.main --config=super_resolution:tiny     # 200 updates: `make demo`
  python -m cdd.main --config=super_resolution:small    # 600 updates: the table in docs/findings.md
  python -m cdd.main --config=super_resolution          # your images: the full size
  python -m cdd.plan --config=super_resolution --family=sd21 --topology=v5e:4x4

`tiny` and `small` run on CPU cores, from the packaged prior. The full size (no word after the
colon) is for Stable Diffusion 2.1 at 512 px on 16 chips of TPU v5e; no run of it has been measured.
It reads two folders of image files, with captions or without (docs/own_data.md):

  data/super_resolution/train/    # .jpg, .png, ..., at least 512 px on the shorter side
  data/super_resolution/test/     # held out, for previews and the report

Only these sharp images are needed: the low-resolution ones are made on the accelerator with
Real-ESRGAN's degradation, and a quarter of the sides (docs/degradations.md). Fields that are likely
to be set:

  --config.data.source.path=FOLDER --config.data.held_out.path=FOLDER
  --config.data.source.size=256 --config.data.held_out.size=256      # the side of the crops
  --config.data.task.degradation.name=stable_sr                      # milder; or bicubic, simple
  --config.data.batch_size=4 --config.accumulate=1 --config.mesh.fsdp=1   # one device

Options, after a comma: `method=finetune` trains the undistilled model that the report compares
with, `adapter=controlnet` uses another adapter, `train=adapter` trains the adapter alone.
configs/common.py lists them all.
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
  config.prior = dict(path=common.HUB['sd21_base'])
  config.model.update(dict(dtype='bfloat16', remat=True))
  config.data = dict(
    source=dict(name='image_folder', path='data/super_resolution/train', size=512, seed=0),
    held_out=dict(name='image_folder', path='data/super_resolution/test', size=512, seed=0),
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
    # The window is short, because the low resolution leaves little open. Below Δt the target
    # network is not trained, so the consistency term does not count there.
    config.method.update(dict(x_weight=16.0, s_min=config.method.dt))
  config.evaluation.condition_row = 'bicubic'
  if chosen['size'] == 'full':
    full(config)
  else:
    photographs(config, cache=dict(small=8000, tiny=0)[chosen['size']])
    config.evaluation.shipped = common.shipped('super_resolution', chosen)
  return config
