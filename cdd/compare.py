"""The command line of comparison: one page about several runs, or what cdd.evaluate wrote.

python -m cdd.compare runs/depth_small runs/depth_small_finetune --out=comparison.html
"""

from pathlib import Path

from absl import flags

from cdd.core import cli
from cdd.core.cli import FLAGS
from cdd.runs import comparing


def define_flags() -> None:
  flags.DEFINE_string('out', 'comparison.html', 'The page to write.')


def main(folders: list[str]) -> None:
  path = Path(FLAGS.out)
  cli.folder(str(path.parent), 'out')
  comparing.compare(folders, path)
  print(f'Wrote {path}.')


if __name__ == '__main__':
  define_flags()
  cli.run(main, paths=True)
