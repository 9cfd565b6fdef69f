"""Whether ours and the undistilled model differ in LPIPS, by differences example by example.

python -m benchmarks.paired --config=depth:tiny --config.evaluation.count=1024 --finetune=FILE \\
  [--config.data.held_out.start=5000] [--ours=FILE] [--steps=4,8]

How hard an example is drops out of the difference.
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags

from cdd import assets
from cdd.core import cli
from cdd.core.cli import FLAGS
from cdd.metrics import lpips
from cdd.pretrained import trained
from cdd.runs.experiment import experiment


def distances(bound, batches, file: str | Path, *, sampler: str, steps: int) -> np.ndarray:
  """LPIPS to the truth of every example, [n]; the noise depends on the example alone."""
  params = trained.load(file, bound.abstract.params)
  measure, weights = jax.jit(lpips.lpips), lpips.load()
  sample = lambda batch, number: bound.sample(params, batch, number, sampler=sampler, steps=steps)
  pairs = ((sample(batch, number), batch['image']) for number, batch in enumerate(batches))
  return np.concatenate([np.asarray(measure(weights, *pair)).ravel() for pair in pairs])


def define_flags() -> None:
  cli.define_config()
  flags.declare_key_flag('config')
  flags.DEFINE_string('ours', None, 'A trained.safetensors; what ships if not given.')
  flags.DEFINE_string('finetune', None, 'The same of the undistilled model, which does not ship.')
  flags.DEFINE_list('steps', ['1', '2', '4', '8'], 'Numbers of steps, the same for both.')
  flags.mark_flag_as_required('finetune')


def main() -> None:
  config, finetune = FLAGS.config, FLAGS.finetune
  task = config.task
  bound = experiment(config, Path('runs') / 'paired')
  batches = bound.held_out(config.evaluation.count, config.evaluation.batch_size)
  ours = FLAGS.ours or assets.TRAINED / f'{task}.safetensors'
  print(f'{task}, {config.evaluation.count} examples of {dict(config.data.held_out)}')
  print('| steps | ours | finetune | ours - finetune | standard error |\n' + '|---' * 5 + '|')
  for steps in map(int, FLAGS.steps):
    first = distances(bound, batches, ours, sampler='consistency', steps=steps)
    second = distances(bound, batches, finetune, sampler='ddim', steps=steps)
    gaps = first - second
    error = gaps.std(ddof=1) / len(gaps) ** 0.5
    print(
      f'| {steps} | {first.mean():.4f} | {second.mean():.4f} | {gaps.mean():+.4f} | {error:.4f} |',
      flush=True,
    )


if __name__ == '__main__':
  define_flags()
  cli.run(main)
