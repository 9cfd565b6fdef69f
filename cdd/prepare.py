"""The command line that encodes a run's examples ahead of it (docs/own_data.md).

python -m cdd.prepare --config=configs/depth.py --output=data/depth_sd21 --count=1000000
"""

from absl import flags

from cdd.core import cli, hosts
from cdd.core.cli import FLAGS
from cdd.core.words import counted
from cdd.runs import prepare, streams


def define_flags() -> None:
  cli.define_config()
  flags.declare_key_flag('config')
  flags.DEFINE_string('output', None, 'The folder of the shards.', required=True)
  flags.DEFINE_integer('count', None, 'How many examples.', lower_bound=1, required=True)
  flags.DEFINE_integer('shards', 16, 'How many files they are in.', lower_bound=1)
  flags.DEFINE_integer('batch_size', 32, 'How many a process encodes at once.', lower_bound=1)
  cli.define_processes()


def main() -> None:
  folder = cli.folder(FLAGS.output, 'output')
  cli.join_processes()
  hosts.end_on_sigterm()  # The shards that are complete are kept.
  with hosts.together():
    prepare.run(
      FLAGS.config,
      folder,
      count=FLAGS.count,
      shards=FLAGS.shards,
      batch_size=FLAGS.batch_size,
    )
    skipped = streams.said_of_skipped(folder) or 'Skipped no example as damaged.'
    print(f'Wrote {counted(FLAGS.count, "example")} to {folder}. {skipped}')
    print(f'Train on them with prepared={folder}.')


if __name__ == '__main__':
  define_flags()
  cli.run(main)
