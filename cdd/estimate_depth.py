"""The command line that estimates depth maps for a folder of images (docs/own_data.md).

python -m cdd.estimate_depth --folder=PATH/train --model=depth-anything/Depth-Anything-V2-Small-hf
"""

from pathlib import Path

from absl import flags

from cdd.core import cli, places
from cdd.core.cli import FLAGS
from cdd.core.errors import UserError
from cdd.core.words import counted, quoted
from cdd.data import depth_estimates


def define_flags() -> None:
  flags.DEFINE_string('folder', None, 'Images, beside which the maps are written.', required=True)
  flags.DEFINE_string('model', None, "A model's folder, or a hub's 'owner/name'.", required=True)


def main() -> None:
  folder = cli.folder(FLAGS.folder, 'folder')
  if places.is_local(FLAGS.model):  # Else transformers asks a hub.
    places.refuse_missing(FLAGS.model, 'model that estimates depth')
  written, skipped = depth_estimates.estimate(folder, depth_estimates.transformer(FLAGS.model))
  for name, reason in skipped.items():
    print(f'Skipped {quoted(Path(name))}: {reason}.')
  print(f'Wrote {counted(written, "depth map")} to {folder}.')
  if skipped and not written:
    raise UserError('No image could be read.')


if __name__ == '__main__':
  define_flags()
  cli.run(main)
