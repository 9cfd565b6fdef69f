"""Whether ours and the undistilled model differ in LPIPS, by differences example by example.

python -m benchmarks.paired --config=configs/depth.py:tiny --config.evaluation.count=1024 \\
  [--config.data.held_out.start=5000] [--ours=FILE] --finetune=FILE [--steps=4,8]

How hard an example is drops out of the difference. --ours defaults to the model that ships.
"""

from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from cdd import assets
from cdd.metrics import lpips
from cdd.pretrained import trained
from cdd.runs.experiment import experiment

CONFIG = config_flags.DEFINE_config_file('config', 'configs/depth.py:tiny', 'Says the examples.')
OURS = flags.DEFINE_string('ours', None, 'A trained.safetensors; what ships if not given.')
FINETUNE = flags.DEFINE_string(
  'finetune', None, 'The same of the undistilled model.', required=True
)
STEPS = flags.DEFINE_list('steps', ['1', '2', '4', '8'], 'Numbers of steps, the same for both.')


def distances(bound, batches, file: str | Path, *, sampler: str, steps: int) -> np.ndarray:
  """LPIPS to the truth of every example, [n]; the noise depends on the example alone."""
  params = trained.load(file, bound.abstract.params)
  measure, weights = jax.jit(lpips.lpips), lpips.load()
  sample = lambda batch, number: bound.sample(params, batch, number, sampler=sampler, steps=steps)
  pairs = ((sample(batch, number), batch['image']) for number, batch in enumerate(batches))
  return np.concatenate([np.asarray(measure(weights, *pair)).ravel() for pair in pairs])


def main(arguments):
  del arguments
  config = CONFIG.value
  task = config.task
  bound = experiment(config, Path('runs') / 'paired')
  batches = bound.held_out(config.evaluation.count, config.evaluation.batch_size)
  ours = OURS.value or assets.TRAINED / f'{task}.safetensors'
  print(f'{task}, {config.evaluation.count} examples of {dict(config.data.held_out)}')
  print('| steps | ours | finetune | ours - finetune | standard error |\n' + '|---' * 5 + '|')
  for steps in map(int, STEPS.value):
    first = distances(bound, batches, ours, sampler='consistency', steps=steps)
    second = distances(bound, batches, FINETUNE.value, sampler='ddim', steps=steps)
    gaps = first - second
    error = gaps.std(ddof=1) / len(gaps) ** 0.5
    print(
      f'| {steps} | {first.mean():.4f} | {second.mean():.4f} | {gaps.mean():+.4f} | {error:.4f} |',
      flush=True,
    )


if __name__ == '__main__':
  app.run(main)
