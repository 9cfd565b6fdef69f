"""The command line of evaluation: any run, checkpoint or folder on held-out examples.

python -m cdd.evaluate --model=runs/depth_tiny --out=evaluation
python -m cdd.evaluate --model=packaged:depth --steps=1,2,4 --data=PATH
python -m cdd.evaluate --model=sd21 --adapter=depth_controlnet --config=depth:full,data=PATH
"""

from pathlib import Path

import jax
from absl import flags

from cdd.core import cli, hosts
from cdd.core.cli import FLAGS
from cdd.core.errors import UserError
from cdd.pretrained import locate
from cdd.runs import evaluations, examined
from cdd.sampling import Settings, load, options
from cdd.sampling.settings import check

HOW = (
  *('guidance', 'image_guidance', 'rescale', 'sampler', 'spacing'),
  *('adapter_strength', 'adapter_start', 'adapter_end'),
)


def define_flags() -> None:
  options.define_model(default=None)
  flags.mark_flag_as_required('model')
  cli.define_config(required=False)
  flags.declare_key_flag('config')
  flags.DEFINE_string('data', None, 'A folder with your own files, in place of the held-out ones.')
  default = 'if not given, what the config says'
  flags.DEFINE_list('steps', None, f'Numbers of steps, such as 1,2,4; {default}.')
  flags.DEFINE_integer('count', None, f'Held-out examples; {default}.', lower_bound=1)
  flags.DEFINE_integer('batch_size', None, f'Of them at once; {default}.', lower_bound=1)
  flags.DEFINE_integer('seed', 0, "Of the noise; 0 is that of a run's report.")
  options.define_how()
  cli.define_processes()
  flags.DEFINE_string('out', 'evaluation', 'The folder to write to.')


def whole_numbers(texts: list[str] | None) -> tuple[int, ...] | None:
  """The numbers of --steps.

  Raises:
    UserError: one of them is none.
  """
  if texts is None:
    return None
  if not texts or not all(text.isdecimal() and int(text) for text in texts):
    raise UserError(f'--steps={",".join(texts)} should be whole numbers, 1 or more.')
  return tuple(map(int, texts))


def label_of(model: str, step: int | None) -> str:
  """'runs/depth_tiny' at step 100 -> 'depth_tiny@100'."""
  name = Path(model).resolve().name if Path(model).exists() else model
  return name if step is None else f'{name}@{step}'


def main() -> None:
  how = Settings(**{name: FLAGS[name].value for name in HOW})
  check(how)
  options.check(how)
  asked = evaluations.Asked(
    whole_numbers(FLAGS.steps), FLAGS.count, FLAGS.batch_size, FLAGS.seed, how
  )
  folder = cli.folder(FLAGS.out, 'out')
  cli.join_processes()
  with hosts.together():
    evaluated(asked, folder)


def evaluated(asked: evaluations.Asked, folder: Path) -> None:
  """Reads the model and measures it."""
  step = FLAGS.step if FLAGS.step is not None else evaluations.newest(FLAGS.model)
  found = locate.locate(FLAGS.model, step=step)
  own = examined.of_model(found)
  config = examined.config(FLAGS.model, own, FLAGS.config, FLAGS.data)
  named = dict(adapter=FLAGS.adapter, vae=FLAGS.vae, dtype=FLAGS.dtype)
  pipeline = load(FLAGS.model, step=step, **named)
  updates = own and (step or own.steps)
  label = label_of(FLAGS.model, step)
  evaluations.evaluate(pipeline, config, own, asked, label=label, updates=updates, folder=folder)
  if jax.process_index() == 0:
    print(f'Wrote {folder / "evaluation.json"} and {folder / "pictures"}.')


if __name__ == '__main__':
  define_flags()
  cli.run(main)
