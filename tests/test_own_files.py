"""The full-size configs on a dozen own files: prepare, train, sample and convert, as documented.

A random Stable Diffusion folder of a few channels takes the place of the hub's.
"""

import json

import commands
import diffusers as reference
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from cdd.data.scenes import Scenes

COUNT = 12
CONTROLNET = reference.StableDiffusionControlNetPipeline
# Task -> the adapter, its fields at the tiny prior's size, and the pipeline that its model is in.
TASKS = dict(
  depth=('controlnet', ('hint_widths=(4,8)',), CONTROLNET),
  instruct_edit=('concat', (), reference.StableDiffusionInstructPix2PixPipeline),
  inpaint=('concat', (), reference.StableDiffusionInpaintPipeline),
  canny=('mu_mix', (), reference.StableDiffusionPipeline),
  super_resolution=('controlnet', ('hint_widths=(4,8)',), CONTROLNET),
)


def pixels(image):
  return Image.fromarray(np.round(255 * image).astype(np.uint8))


def files(task, folder):
  """Examples in the layout that the top of the task's config shows."""
  for part, start, count in (('train', 0, COUNT), ('test', COUNT, 4)):
    place, rows = folder / part, []
    place.mkdir(parents=True)
    for index, number in enumerate(range(start, start + count)):
      scene = Scenes(size=(40, 48), edits=True)[number]
      pixels(scene['image']).save(place / f'{index:04d}.jpg')
      (place / f'{index:04d}.txt').write_text(scene['caption'])
      if task == 'depth':
        near = np.round(60000 / scene['depth']).clip(0, 65535).astype(np.uint16)
        Image.fromarray(near).save(place / f'{index:04d}.depth.png')
      if task == 'instruct_edit':
        pixels(scene['edited_image']).save(place / f'{index}_edited.png')
        rows.append(
          dict(
            file_name=f'{index:04d}.jpg',
            edited_file_name=f'{index}_edited.png',
            edit_prompt=scene['instruction'],
          )
        )
    if rows:
      (place / 'metadata.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder


def lines(task, folder, prior):
  """The documented command lines, made small by flags."""
  adapter, fields, _ = TASKS[task]
  small = [
    f'--config.prior.path={prior}',
    '--config.data.batch_size=2',
    '--config.data.workers=0',
    f'--config.data.held_out.size={tiny.SIZE}',
    '--config.accumulate=1',
    '--config.mesh.fsdp=1',
    '--config.optimizer.warmup=0',
    '--config.optimizer.learning_rate=0.03',
    '--config.evaluation.count=2',
    '--config.evaluation.batch_size=2',
    '--config.evaluation.steps=(1,)',
    '--config.steps=2',
    *(f'--config.model.adapter.{field}' for field in fields),
  ]
  config = f'--config={task}:full,adapter={adapter},data={folder}/files'
  cut, ahead = f'--config.data.source.size={tiny.SIZE}', f'{folder}/prepared'
  made = [f'--output={ahead}', '--count=8', '--shards=2', '--batch_size=4']
  picture = folder / 'files' / 'test' / '0000.jpg'
  sampled = [f'--model={folder}/run', '--prompt=a ball', f'--condition={picture}', '--steps=2']
  if task == 'inpaint':
    mask = np.zeros((40, 48), np.uint8)
    mask[10:30, 10:30] = 255
    Image.fromarray(mask).save(folder / 'mask.png')
    sampled.append(f'--mask={folder}/mask.png')
  online = [['cdd.main', config, *small, cut, f'--workdir={folder}/online']]
  return online * (task == 'depth') + [
    ['cdd.prepare', config, *small, cut, *made],
    ['cdd.main', f'{config},prepared={ahead}', *small, f'--workdir={folder}/run'],
    ['cdd.sample', *sampled, f'--out={folder}/samples'],
    ['cdd.convert', f'--source={folder}/run', f'--target={folder}/converted'],
  ]


@pytest.mark.parametrize('task', TASKS)
def test_own_files_become_a_pipeline_of_the_reference_library(task, prior, tmp_path):
  files(task, tmp_path / 'files')
  for line in lines(task, tmp_path, prior):
    (done,) = commands.run([line], cwd=tmp_path)
    assert done.code == 0, (line, done.err[-3000:])
  rows = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
  assert np.isfinite([row['lpips'] for row in rows]).all()
  assert all(('edited' in row) == (task == 'instruct_edit') for row in rows)
  (sampled,) = json.loads('[' + (tmp_path / 'samples/samples.jsonl').read_text() + ']')
  drawn = np.asarray(Image.open(tmp_path / 'samples' / sampled['file']), np.float32)
  scale = 4 if task == 'super_resolution' else 1
  assert drawn.shape == (40 * scale, 48 * scale, 3) and drawn.std() > 1
  pipeline = load(task, tmp_path / 'converted')
  assert type(pipeline) is TASKS[task][2]
  if task != 'canny':  # Whose μ-mixing adapter PyTorch runs by the code of docs/mu_mix.md.
    assert np.isfinite(theirs(task, pipeline)).all()


def load(task, folder):
  more = {}
  if TASKS[task][2] is CONTROLNET:
    more['controlnet'] = reference.ControlNetModel.from_pretrained(folder / 'controlnet')
    return TASKS[task][2].from_pretrained(folder, safety_checker=None, **more)
  return reference.DiffusionPipeline.from_pretrained(folder)


def theirs(task, pipeline):
  """What the reference library draws with the model."""
  pipeline.set_progress_bar_config(disable=True)
  image = torch.rand(1, 3, tiny.SIZE, tiny.SIZE)
  more = {}
  if task == 'inpaint':
    mask = torch.zeros(1, 1, tiny.SIZE, tiny.SIZE)
    mask[..., 8:16, 8:16] = 1
    more = dict(mask_image=mask, height=tiny.SIZE, width=tiny.SIZE)
  return pipeline('a ball', image=image, num_inference_steps=2, output_type='np', **more).images
