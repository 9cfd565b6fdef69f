"""Instructed editing: a picture and an instruction make another picture (InstructPix2Pix).

  python -m cdd.main --config=instruct_edit:tiny    # 200 updates: `make demo TASK=instruct_edit`
  python -m cdd.main --config=instruct_edit:small   # 800 updates
  python -m cdd.main --config=instruct_edit:tiny,data=PATH  # on your own pictures
  python -m cdd.plan --config=instruct_edit --family=sd15 --topology=v5e:4x4

`tiny` and `small` run on CPU cores, from the packaged prior, on scenes and their edited twins
(something is recoloured, removed, replaced or added). The full size trains Stable Diffusion 1.5 at
256 px on 16 chips of TPU v5e. It was planned, and run with a small model in place of Stable
Diffusion; it has not been run on such chips.

The data, data/instruct_edit or the PATH of `data=PATH`, is images, edited images and instructions:

  train/metadata.jsonl    {"file_name": "1.png", "edited_file_name": "1_edited.png",
                           "edit_prompt": "make it red"}
  train/1.png  train/1_edited.png  test/...

docs/own_data.md has all layouts, among them InstructPix2Pix's own. To encode it ahead of training:

  python -m cdd.prepare --config=instruct_edit --output=data/edit_prepared --count=1000000
  python -m cdd.main --config=instruct_edit:full,prepared=data/edit_prepared

Text and picture are dropped as in InstructPix2Pix's training, so that sampling can guide by both:
`python -m cdd.sample --guidance=7.5 --image_guidance=1.5`. `adapter=concat` is its own network.
"""

from ml_collections import ConfigDict

from configs import adapters, common

TASK = dict(name='instruct_edit')
DROPOUT = dict(caption_dropout=0.05, joint_dropout=0.05, condition_dropout=0.05)


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
    **(common.PACKAGED | DROPOUT),
  )


def get_config(argument: str = 'full') -> ConfigDict:
  chosen = common.parse(argument)
  if chosen['adapter'] == 'none':
    raise ValueError(
      'An instruction says what to change in a picture, which adapter=none does not read; choose '
      f'one of {sorted(adapters.OWN)}.'
    )
  steps = dict(full=10_000, small=800, tiny=200)
  config = common.experiment('instruct_edit', chosen, steps=steps)
  config.evaluation.condition_row = 'the picture before'
  config.evaluation.mismatched = 'text'
  config.evaluation.metrics += ('edited', 'kept')
  if chosen['size'] == 'full':
    settings = dict(size=256, task=TASK, learning_rate=1e-4, **DROPOUT)
    common.large(config, chosen, prior=common.HUB['sd15'], **settings)
  else:
    scenes(config, cache=dict(small=8000, tiny=0)[chosen['size']])
    common.on_own_data(config, chosen)
  return config
