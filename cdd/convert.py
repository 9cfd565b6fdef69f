"""Owns conversion: any model that is read here (a folder, the hub's, a run) in diffusers' layout.

python -m cdd.convert --source=stabilityai/sdxl-base --target=sdxl --variant=fp16
python -m cdd.convert --source=runs/depth_full --target=depth --dtype=float16
python -m cdd.convert --source=control_sd15_depth.safetensors --target=depth_controlnet
  --adapter=controlnet --prior=sd15
"""

import re
import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from cdd.core import trees
from cdd.core.errors import UserError
from cdd.core.files import whole
from cdd.pretrained import adapter_folders as adapters
from cdd.pretrained import diffusers, hub, priors, scheduler, tensors, trained, weights
from cdd.runs import experiment as build
from cdd.runs.export import WEIGHTS

FLAGS = flags.FLAGS
DTYPES = dict(float32='F32', float16='F16', bfloat16='BF16')
UNITS = {'': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30}


def convert(
  source: str,
  target: Path,
  *,
  dtype=None,
  variant: str | None = None,
  max_shard_size: int = weights.SHARD,
  adapter: str | None = None,
  prior: str | None = None,
) -> str:
  """Writes what `source` holds to the folder `target`, whole or not at all.

  Returns:
    What was written, in words.

  Raises:
    UserError: the source is missing, broken or of a kind that is not read.
  """
  options = dict(dtype=dtype, max_shard_size=max_shard_size)
  folder = hub.folder(source, variant=variant)
  if adapter:
    if not prior:
      raise UserError(f'--adapter={adapter} needs --prior, the model that it belongs to.')
    fields = weights.read_json(hub.folder(prior) / 'unet' / 'config.json')
    settings = dict(name=adapter, path=str(folder))
    spec, params = adapters.start(settings, diffusers.parse('unet', fields))
    return of_adapter(spec, params, target, dtype=dtype)
  export = folder / 'export' if (folder / 'export').is_dir() else folder
  if (export / WEIGHTS).exists():
    return of_run(export, target, **options)
  top = export / 'config.json'
  if top.exists() and weights.read_json(top).get('_class_name'):
    spec = adapters.config_of(export)
    params = adapters.load(export, spec, variant=variant, dtype=dtype)
    return of_adapter(spec, params, target, dtype=dtype)
  pipeline = diffusers.load(export, dtype=dtype, variant=variant)
  diffusers.save(pipeline, target, **options)
  left = f'; left out: {", ".join(pipeline.extras)}' if pipeline.extras else ''
  return f'{diffusers.new_index(pipeline)["_class_name"]} ({", ".join(pipeline.configs)}{left})'


def of_adapter(spec: adapters.Spec, params, target: Path, *, dtype) -> str:
  adapters.save(spec, params, target, dtype=dtype)
  return adapters.LAYOUTS[spec.name].kind


def of_run(export: Path, target: Path, *, dtype, max_shard_size: int) -> str:
  """A run's θ⁻: the pipeline if it was trained, with the adapter below it; else the adapter."""
  config = ConfigDict(weights.read_json(export / 'config.json'))
  prior = priors.load(config.prior, export.parent, ())
  settings = config.model.adapter
  _, unet, brought = build.joined(settings, prior.configs['unet'], prior.params, np.float32)
  everything = {**prior.params, **brought}
  train, _ = build.divide(config, everything)
  everything.update(trained.load(export / WEIGHTS, train))
  own = trees.select(everything, 'adapter')
  spec, _ = adapters.start(settings, unet)
  if own and all(path.startswith('adapter.') for path in train):
    return of_adapter(spec, own, target, dtype=dtype)
  pipeline = prior._replace(
    configs={**prior.configs, 'unet': unet},
    params=everything,
    scheduler=scheduler.of_run(prior.scheduler),
  )
  with whole(target) as new:
    diffusers.save(pipeline, new, dtype=dtype, max_shard_size=max_shard_size)
    if own:
      adapters.save(spec, own, new / spec.name, dtype=dtype)
  name = diffusers.new_index(pipeline)['_class_name']
  return f'{name}, and {adapters.LAYOUTS[spec.name].kind} in {spec.name}/' if own else name


def size(text: str) -> int:
  """'10GB' -> bytes.

  Raises:
    UserError: it is no size.
  """
  found = re.fullmatch(r'(\d+)\s*([KMG]I?B)?', text.strip().upper())
  if not found or not int(found[1]):
    raise UserError(f'--max_shard_size={text} is no size; give one as 500MB, 10GB or 5GiB.')
  return int(found[1]) * UNITS[found[2] or '']


def check_target(target: Path, *, overwrite: bool) -> None:
  """Refuses to replace what is there, and with --overwrite what does not look like a model.

  Raises:
    UserError: names the target.
  """
  if not target.exists():
    return
  if not overwrite:
    raise UserError(f'{target} exists; give another --target, or --overwrite to replace it.')
  models = ('model_index.json', 'config.json')
  if not target.is_dir() or not any((target / name).exists() for name in models):
    raise UserError(f'{target} holds no model ({" or ".join(models)}), so it is not replaced.')


def define_flags() -> None:
  text, choice = flags.DEFINE_string, flags.DEFINE_enum
  text(
    'source',
    None,
    "A diffusers folder, a hub's owner/name, a run's workdir or its export/, or an adapter.",
  )
  text('target', None, 'The folder to write; it must not exist yet.')
  own = "The weights' dtype; the source's own if not given (of a run or a single file: float32)."
  choice('dtype', None, list(DTYPES), own)
  text('variant', None, 'Reads MODEL.VARIANT.safetensors: --variant=fp16.')
  text('max_shard_size', '10GB', 'Larger weights are cut into files of this size.')
  text('adapter', None, 'What a single .safetensors holds: --adapter=controlnet.')
  text('prior', None, 'The model of the U-Net that such an adapter belongs to.')
  flags.DEFINE_bool('overwrite', False, 'Replaces --target if it holds a model.')
  flags.mark_flags_as_required(['source', 'target'])


def main(arguments):
  try:
    if len(arguments) > 1:
      raise UserError(f'Unexpected arguments {arguments[1:]}; every option starts with --.')
    target = Path(FLAGS.target)
    check_target(target, overwrite=FLAGS.overwrite)
    what = convert(
      FLAGS.source,
      target,
      dtype=FLAGS.dtype and tensors.DTYPES[DTYPES[FLAGS.dtype]],
      variant=FLAGS.variant,
      max_shard_size=size(FLAGS.max_shard_size),
      adapter=FLAGS.adapter,
      prior=FLAGS.prior,
    )
  except UserError as error:
    sys.exit(f'error: {error}')
  print(f'Wrote {target}: {what}.')


if __name__ == '__main__':
  define_flags()
  app.run(main)
