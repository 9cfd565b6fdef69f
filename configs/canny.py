"""Images from their edges, as ControlNet's canny model.

  python -m cdd.main --config=canny:tiny                  # 200 updates on scenes and photographs
  python -m cdd.main --config=canny:small                 # 800 updates
  python -m cdd.main --config=canny:tiny,data=PATH  # on your own pictures
  python -m cdd.plan --config=canny --family=sd15 --topology=v5e:4x4

The edges are found by OpenCV: pip install 'cdd-jax[canny]'. `tiny` and `small` run on CPU cores,
from the packaged prior. The full size trains Stable Diffusion 1.5 at 512 px on 16 chips of TPU
v5e. It was planned, and run with a small model in place of Stable Diffusion; it has not been run on
such chips.

The data, data/canny or the PATH of `data=PATH`, is images with captions beside them:

  train/0001.jpg  train/0001.txt  test/...

docs/own_data.md has all layouts. To encode it ahead of training:

  python -m cdd.prepare --config=canny --output=data/canny_prepared --count=1000000
  python -m cdd.main --config=canny:full,prepared=data/canny_prepared
"""

from ml_collections import ConfigDict

from configs import common

TASK = dict(name='canny')


def get_config(argument: str = 'full') -> ConfigDict:
  chosen = common.parse(argument)
  config = common.experiment('canny', chosen, steps=dict(full=50_000, small=800, tiny=200))
  config.evaluation.mismatched = 'condition'
  if chosen['size'] == 'full':
    common.large(config, chosen, prior=common.HUB['sd15'], size=512, task=TASK)
  else:
    common.embedded(config, TASK, cache=dict(small=8000, tiny=0)[chosen['size']])
    common.on_own_data(config, chosen)
  return config
