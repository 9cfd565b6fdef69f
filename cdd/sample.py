"""The command line of sampling (docs/sampling.md); `cdd.sampling` is its Python API.

python -m cdd.sample --model=packaged:depth --prompt='a red ball' --condition=depth.png --seeds=0,1
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from cdd.core import cli, files, interrupts
from cdd.core.cli import FLAGS
from cdd.core.errors import UserError
from cdd.core.words import counted
from cdd.data import images as pictures
from cdd.data.tasks.task import Task
from cdd.reports import grid
from cdd.sampling import Settings, load, options
from cdd.sampling.options import OF_MODEL
from cdd.sampling.settings import check
from cdd.sampling.spread import spread

OF_IMAGE = ('prompt', 'negative', 'condition', 'mask', 'seeds')


def picture(path: str) -> Image.Image:
  """An image file, decoded.

  Raises:
    UserError: it is missing or no image.
  """
  try:
    return pictures.opened(path)
  except pictures.Unreadable as error:
    raise UserError(f'The condition image {path} cannot be read: {error}.') from error


def condition(path: str, image: Image.Image, task: Task) -> np.ndarray:
  """What a task makes of a picture; a UserError names the file that does not suit it."""
  try:
    return task.from_picture(image)
  except ValueError as error:
    raise UserError(f'The condition image {path} does not suit the model: {error}.') from error


def holed(path: str, image: Image.Image, mask: str | None) -> Image.Image:
  """A picture made transparent where its mask is white; as it is without one.

  Raises:
    UserError: one of them cannot be read, they are of different sizes, or nothing of the mask is
      white.
  """
  if mask is None:
    return image
  try:
    share = pictures.share(pictures.opened(mask))
  except pictures.Unreadable as error:
    raise UserError(f'The mask {mask} cannot be read: {error}.') from error
  try:
    image = pictures.rgb(image)
  except pictures.Unreadable as error:
    raise UserError(f'The condition image {path} cannot be read: {error}.') from error
  if share.shape != image.size[::-1]:
    sizes = ' and '.join(f'{height}x{width}' for width, height in (share.shape, image.size[::-1]))
    raise UserError(f'The mask {mask} and the condition image {path} have to agree: {sizes}.')
  if not (share >= 0.5).any():
    raise UserError(
      f'The mask {mask} is white nowhere, so that nothing is to be painted: the brightest of its '
      f'pixels is {255 * share.max():.0f} of 255, and from 128 on one counts as white.'
    )
  image.putalpha(Image.fromarray(np.uint8(255 * (share < 0.5))))
  return image


def contact_sheet(images: np.ndarray, conditions: Sequence[np.ndarray | None]) -> np.ndarray:
  """Images in a grid that is about square; with conditions, a row for each pair."""
  if conditions[0] is not None:
    return grid.grid(dict(condition=np.stack(conditions)[..., :3], sample=images), scale=1)
  side = math.ceil(math.sqrt(len(images)))
  blank = np.ones((-len(images) % side, *images.shape[1:]), np.float32)
  padded = np.concatenate([images, blank])
  return grid.grid({str(i + 1): padded[i::side] for i in range(side)}, scale=1)


def write(folder: Path, images: np.ndarray, rows: Sequence[dict], sheet: np.ndarray) -> None:
  """One PNG per image, samples.jsonl with the settings of each, and grid.png."""
  for image, row in zip(images, rows, strict=True):
    grid.save_png(folder / row['file'], grid.to_uint8(image))
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  files.write(folder / 'samples.jsonl', text)
  grid.save_png(folder / 'grid.png', sheet)


def define_flags() -> None:
  options.define_model()
  flags.DEFINE_multi_string('prompt', '', 'May be repeated, once per image.')
  flags.DEFINE_multi_string('negative', None, 'The negative prompt of guidance; may be repeated.')
  flags.DEFINE_multi_string('condition', None, 'An image file; may be repeated.')
  flags.DEFINE_multi_string('mask', None, 'An image, white where --condition is to be painted.')
  flags.DEFINE_list('seeds', ['0'], 'One per image, such as 0,1,2.')
  default = 'if not given, that of the model'
  flags.DEFINE_integer('steps', None, f'Denoising steps; {default}.', lower_bound=1)
  options.define_how()
  flags.DEFINE_list('size', None, 'Height,width in pixels.')
  flags.DEFINE_string('tile', 'auto', "The side of tiles in pixels, 'auto' or 'off'.")
  flags.DEFINE_boolean('long_prompts', False, 'Reads all of a long prompt, in chunks.')
  flags.DEFINE_boolean('weighted_prompts', False, '(words:1.3), (words) and [words] are weights.')
  flags.DEFINE_string('out', 'samples', 'The folder to write to.')


def run(settings: Mapping[str, Any]) -> None:
  """Samples and writes what the flags ask for.

  Raises:
    UserError: names what does not fit.
  """
  how = Settings(**{name: settings[name] for name in Settings._fields})
  how = how._replace(tile=tile(how.tile))
  check(how)
  options.check(how)
  out = cli.folder(settings['out'], 'out')
  seeds, size = (whole_numbers(settings[name], name) for name in ('seeds', 'size'))
  paths = settings['condition'] or ()
  opened = [picture(path) for path in paths]
  pairs = spread(dict(path=paths or None, image=opened or None, mask=settings['mask']))
  given = spread({name: settings[name] for name in OF_IMAGE} | dict(seeds=seeds))
  named = {name: settings[name] for name in OF_MODEL if name != 'model'}
  pipeline = load(settings['model'], **named)
  how = pipeline.resolved(how)
  if settings['mask'] and not (paths and 'mask' in pipeline.networks.reads):
    raise UserError('--mask goes with --condition and a model that reads a mask (inpainting).')
  conditions = [
    condition(path, holed(path, image, mask), pipeline.task)
    for path, image, mask in zip(*pairs.values(), strict=True)
    if paths
  ]
  with interrupts.compiling('the model'):
    images = pipeline(
      given['prompt'],
      conditions or None,
      negative=given['negative'],
      seeds=given['seeds'],
      size=size and tuple(size),
      **how._asdict(),
    )
  common = {name: settings[name] for name in OF_MODEL} | how._asdict()
  common['size'] = list(images.shape[1:3])
  rows = []
  for index, values in enumerate(zip(*given.values(), strict=True)):
    each = dict(zip(given, values, strict=True))
    seed = each.pop('seeds')
    rows.append(dict(file=f'{index:04d}_{seed}.png', seed=seed, **each, **common))
  sheet = contact_sheet(images, spread(dict(c=conditions or None, images=images))['c'])
  write(out, images, rows, sheet)
  print(f'Wrote {counted(len(images), "image")}, samples.jsonl and grid.png to {settings["out"]}.')


def tile(text: str) -> str | int | None:
  """What --tile says: 'auto', 'off' or a number of pixels."""
  if text in ('auto', 'off'):
    return None if text == 'off' else text
  try:
    return int(text)
  except ValueError:
    raise UserError(f"--tile={text} should be 'auto', 'off' or a number of pixels.") from None


def whole_numbers(texts: Sequence[str] | None, name: str) -> list[int] | None:
  try:
    return None if texts is None else [int(text) for text in texts]
  except ValueError:
    raise UserError(f'--{name} should be whole numbers, not {",".join(texts)!r}.') from None


if __name__ == '__main__':
  define_flags()
  cli.run(lambda: run(FLAGS.flag_values_dict()))
