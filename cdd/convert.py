"""The command line of conversion: a folder, a hub's model or a run, in diffusers' layout.

python -m cdd.convert --source=stabilityai/stable-diffusion-xl-base-1.0 --target=sdxl --variant=fp16
python -m cdd.convert --source=runs/depth_full --target=depth --dtype=float16
python -m cdd.convert --source=control_sd15_depth.safetensors --target=depth_controlnet
  --adapter=controlnet --prior=sd15
"""

import re
from pathlib import Path

from absl import flags

from cdd.core import cli
from cdd.core.cli import FLAGS
from cdd.core.errors import UserError
from cdd.pretrained import tensors
from cdd.pretrained.convert import convert

DTYPES = dict(float32='F32', float16='F16', bfloat16='BF16')
UNITS = {'': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30}


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
  kind = "The weights' dtype; that of the source if not given (of a run or a single file: float32)."
  choice('dtype', None, list(DTYPES), kind)
  text('variant', None, 'Reads MODEL.VARIANT.safetensors: --variant=fp16.')
  text('max_shard_size', '10GB', 'Larger weights are cut into files of this size.')
  text('adapter', None, 'What a single .safetensors holds: --adapter=controlnet.')
  text('prior', None, 'The model of the U-Net that such an adapter belongs to.')
  flags.DEFINE_integer('step', None, 'Of a run: its checkpoint of this step.', lower_bound=0)
  flags.DEFINE_bool('overwrite', False, 'Replaces --target if it holds a model.')
  flags.mark_flags_as_required(['source', 'target'])


def main() -> None:
  target = cli.folder(FLAGS.target, 'target')
  check_target(target, overwrite=FLAGS.overwrite)
  what = convert(
    FLAGS.source,
    target,
    dtype=FLAGS.dtype and tensors.DTYPES[DTYPES[FLAGS.dtype]],
    variant=FLAGS.variant,
    max_shard_size=size(FLAGS.max_shard_size),
    adapter=FLAGS.adapter,
    prior=FLAGS.prior,
    step=FLAGS.step,
  )
  print(f'Wrote {target}: {what}.')


if __name__ == '__main__':
  define_flags()
  cli.run(main)
