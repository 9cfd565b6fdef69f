"""Instructed editing: a plan, which cannot run yet.

  python -m cdd.main --config=instruct_edit    # ends with an error: there is no such task

It plans for Stable Diffusion 1.5 at 256 px on 16 chips of TPU v5e. The task `instruct_edit` does
not exist yet. Of the sources only `scenes` has edited images with instructions; none reads a folder
of them.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = 'full') -> ConfigDict:
  chosen = common.parse(argument)
  if chosen['size'] != 'full':
    raise ValueError(f'instruct_edit has no size {chosen["size"]!r}; choose one of ["full"].')
  config = common.experiment('instruct_edit', chosen, steps=dict(full=10_000))
  config.prior = dict(path=common.HUB['sd15'])
  config.model.update(dict(dtype='bfloat16', remat=True))
  config.data = dict(
    source=dict(name='image_folder', path='data/instruct_edit/train'),
    held_out=dict(name='image_folder', path='data/instruct_edit/test'),
    task=dict(name='instruct_edit'),
    batch_size=256,
    caption_dropout=0.05,
    threads=2,
    workers=16,
  )
  config.optimizer.learning_rate = 1e-4
  config.accumulate = 2
  config.mesh = dict(data=-1, fsdp=16)
  return config
