"""Owns the command line of sampling (docs/sampling.md); `load` and what it returns are the API.

python -m cdd.sample --model=packaged:depth --prompt='a red ball' --condition=depth.png --seeds=0,1
"""

from cdd.core import runtime

runtime.configure()

import json  # noqa: E402
import math  # noqa: E402
import sys  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from absl import app, flags, logging  # noqa: E402
from PIL import Image  # noqa: E402

from cdd.core.errors import UserError  # noqa: E402
from cdd.core.registry import choose  # noqa: E402
from cdd.data import TASKS  # noqa: E402
from cdd.diffusion.samplers import SAMPLERS  # noqa: E402
from cdd.diffusion.times import SPACINGS  # noqa: E402
from cdd.reports import grid  # noqa: E402
from cdd.sampling.pipeline import How, load, spread  # noqa: E402

FLAGS = flags.FLAGS
OF_MODEL = ('model', 'adapter', 'dtype')
OF_IMAGE = ('prompt', 'negative', 'condition', 'seeds')


def picture(path: str) -> Image.Image:
  """An image file, decoded.

  Raises:
    UserError: it is missing or no image.
  """
  try:
    image = Image.open(path)
    image.load()
    return image
  except (OSError, SyntaxError) as error:
    raise UserError(f'The condition image {path} cannot be read: {error}') from error


def as_condition(image: Image.Image, task: Mapping[str, Any]) -> np.ndarray:
  """A picture as the condition [H, W, 3] in [0, 1] of a task, `config.data.task`.

  Depth: a map of any bit depth, bright meaning near, stretched to the whole range.
  Super-resolution: the small image, enlarged bicubically. Anything else: the picture itself.
  """
  if task.get('name') == 'depth':
    depth = image if image.mode in ('I;16', 'I', 'F') else image.convert('L')
    stretch = TASKS['depth'](depth_kind='inverse', percentiles=task.get('percentiles'))
    values = np.asarray(depth, np.float32)
    return stretch(dict(image=values, depth=values, caption=''), None)['condition']
  image = image.convert('RGB')
  factor = task['factor'] if task.get('name') == 'super_resolution' else 1
  size = (image.width * factor, image.height * factor)
  image = image if factor == 1 else image.resize(size, Image.Resampling.BICUBIC)
  return np.asarray(image, np.float32) / 255


def contact_sheet(images: np.ndarray, conditions: Sequence[np.ndarray | None]) -> np.ndarray:
  """Images in a grid that is about square; with conditions, a row for each pair."""
  if conditions[0] is not None:
    return grid.grid(dict(condition=np.stack(conditions), sample=images), scale=1)
  side = math.ceil(math.sqrt(len(images)))
  blank = np.ones((-len(images) % side, *images.shape[1:]), np.float32)
  padded = np.concatenate([images, blank])
  return grid.grid({str(i + 1): padded[i::side] for i in range(side)}, scale=1)


def write(folder: Path, images: np.ndarray, rows: Sequence[dict], sheet: np.ndarray) -> None:
  """One PNG per image, samples.jsonl with the settings of each, and grid.png."""
  for image, row in zip(images, rows, strict=True):
    grid.save_png(folder / row['file'], grid.to_uint8(image))
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'samples.jsonl').write_text(text)
  grid.save_png(folder / 'grid.png', sheet)


def define_flags() -> None:
  flags.DEFINE_string('model', 'packaged', "A run, a diffusers folder, 'packaged:depth'.")
  flags.DEFINE_string('adapter', None, "The folder of an adapter in diffusers' layout.")
  flags.DEFINE_string('dtype', 'float32', 'What the networks compute in.')
  flags.DEFINE_multi_string('prompt', '', 'May be repeated, once per image.')
  flags.DEFINE_multi_string('negative', None, 'What guidance leads away from; may be repeated.')
  flags.DEFINE_multi_string('condition', None, 'An image file; may be repeated.')
  flags.DEFINE_list('seeds', ['0'], 'One per image, such as 0,1,2.')
  flags.DEFINE_float('guidance', 1.0, '1 is none.', lower_bound=0)
  flags.DEFINE_float('image_guidance', None, "InstructPix2Pix's second scale.", lower_bound=0)
  flags.DEFINE_float('rescale', 0.0, 'Of guidance (Lin et al., 2024).', 0, 1)
  flags.DEFINE_integer('steps', None, "Denoising steps; the sampler's own number.", lower_bound=1)
  flags.DEFINE_string('sampler', None, f'One of {sorted(SAMPLERS)}.')
  flags.DEFINE_string('spacing', None, f"One of {sorted(SPACINGS)}; the model's own.")
  flags.DEFINE_list('size', None, 'Height,width in pixels.')
  flags.DEFINE_integer('tile', None, 'The side of tiles in pixels, for large images.')
  flags.DEFINE_string('out', 'samples', 'The folder to write to.')


def run(settings: Mapping[str, Any]) -> None:
  """Samples and writes what the flags ask for.

  Raises:
    UserError: names what does not fit.
  """
  how = How(**{name: settings[name] for name in How._fields})
  choose(SAMPLERS, how.sampler or 'ddim', 'sampler')
  choose(SPACINGS, how.spacing or 'trailing', 'spacing')
  seeds, size = (whole_numbers(settings[name], name) for name in ('seeds', 'size'))
  pictures = [picture(path) for path in settings['condition'] or ()]
  given = spread({name: settings[name] for name in OF_IMAGE} | dict(seeds=seeds))
  sampler = load(settings['model'], adapter=settings['adapter'], dtype=settings['dtype'])
  how = sampler.resolved(how)
  conditions = [as_condition(image, sampler.task) for image in pictures]
  images = sampler(
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
    own = dict(zip(given, values, strict=True))
    seed = own.pop('seeds')
    rows.append(dict(file=f'{index:04d}_{seed}.png', seed=seed, **own, **common))
  sheet = contact_sheet(images, spread(dict(c=conditions or None, images=images))['c'])
  write(Path(settings['out']), images, rows, sheet)
  print(f'Wrote {len(images)} images, samples.jsonl and grid.png to {settings["out"]}.')


def whole_numbers(texts: Sequence[str] | None, name: str) -> list[int] | None:
  try:
    return None if texts is None else [int(text) for text in texts]
  except ValueError:
    raise UserError(f'--{name} should be whole numbers, not {",".join(texts)!r}.') from None


def parse(arguments: list[str]) -> list[str]:
  try:
    return FLAGS(arguments)
  except flags.Error as error:
    return sys.exit(f'error: {error}')


def main(arguments):
  if len(arguments) > 1:
    sys.exit(f'error: unexpected arguments {arguments[1:]}; every option starts with --.')
  logging.set_verbosity(logging.WARNING)
  try:
    run(FLAGS.flag_values_dict())
  except UserError as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  define_flags()
  app.run(main, flags_parser=parse)
