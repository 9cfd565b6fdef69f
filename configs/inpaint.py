"""Inpainting: a picture with a hole and a mask that says where it is.

  python -m cdd.main --config=inpaint:tiny                # 200 updates on scenes and photographs
  python -m cdd.main --config=inpaint:small               # 800 updates
  python -m cdd.main --config=inpaint:tiny,data=PATH      # on your own pictures
  python -m cdd.plan --config=inpaint --family=sd15 --topology=v5e:4x4

`tiny` and `small` run on CPU cores, from the packaged prior. The full size trains Stable Diffusion
1.5 at 512 px on 16 chips of TPU v5e. It was planned, and run with a small model in place of Stable
Diffusion; it has not been run on such chips. `adapter=concat` is Stable Diffusion inpainting's own
network of 9 input channels; the other adapters read the mask beside the picture.

The data, data/inpaint or the PATH of `data=PATH`, is images with captions beside them:

  train/0001.jpg  train/0001.txt  test/...

The masks are drawn; a tenth of them cover the whole picture, which is then drawn from its caption
alone. With --config.data.task.masks=source they are read, white where the picture is to be painted:
train/0001.mask.png. docs/own_data.md has all layouts. To encode it ahead of training:

  python -m cdd.prepare --config=inpaint --output=data/inpaint_prepared --count=1000000
  python -m cdd.main --config=inpaint:full,prepared=data/inpaint_prepared
"""

from ml_collections import ConfigDict

from configs import adapters, common

TASK = dict(name='inpaint', masks='drawn')


def get_config(argument: str = 'full') -> ConfigDict:
  chosen = common.parse(argument)
  config = common.experiment('inpaint', chosen, steps=dict(full=50_000, small=800, tiny=200))
  config.model.adapter.update(adapters.MASKED[chosen['adapter']])
  config.evaluation.condition_row = 'the picture with its hole'
  config.evaluation.mismatched = 'condition'
  if chosen['size'] == 'full':
    common.large(config, chosen, prior=common.HUB['sd15'], size=512, task=TASK)
  else:
    common.embedded(config, TASK, cache=dict(small=8000, tiny=0)[chosen['size']])
    common.on_own_data(config, chosen)
  return config
