"""Measures an undistilled model once, for the reports that show it beside their own run.

python -m benchmarks.undistilled TASK WEIGHTS

WEIGHTS is the export/trained.safetensors of a run of configs/TASK.py:small,method=finetune. The
rows and the first images go to cdd/assets/results/TASK_finetune.json and .webp, which ship; the
weights do not.
"""

import hashlib
import sys
import tempfile
from functools import partial
from pathlib import Path

from cdd import assets
from cdd.core import cli
from cdd.metrics import chosen
from cdd.pretrained import trained
from cdd.reports import stored
from cdd.runs.evaluate import evaluate
from cdd.runs.experiment import experiment

STEPS, SHOWN = (1, 2, 4, 8, 50), (1, 4, 50)
SAMPLER = 'ddim'


def measure(bound, params, metrics, count: int, batch_size: int) -> tuple[list[dict], dict]:
  """The rows for the first `count` held-out examples, and the first images by number of steps."""
  batches = bound.held_out(count, batch_size)
  rows, pictures = [], {}
  for steps in STEPS:
    sample = partial(bound.sample, params, sampler=SAMPLER, steps=steps)
    row, images = evaluate(sample, batches, metrics)
    rows.append(dict(steps=steps, sampler=SAMPLER, **row))
    pictures[steps] = images
    print(rows[-1], flush=True)
  return rows, {steps: pictures[steps] for steps in SHOWN}


def main(task: str, weights: Path) -> None:
  # The tiny and the small runs have the same held-out examples, and report different numbers.
  configs = {
    size: cli.load(cli.CONFIGS / f'{task}.py', f'{size},method=finetune')
    for size in ('tiny', 'small')
  }
  with tempfile.TemporaryDirectory() as scratch:
    bound = experiment(configs['tiny'], Path(scratch))
  params = trained.load(weights, bound.abstract.params)
  rows = []
  for config in configs.values():
    settings = config.evaluation
    measured, pictures = measure(
      bound, params, chosen(settings.metrics), settings.count, settings.batch_size
    )
    rows += measured
  examples = stored.statistics(bound.held_out(8, 8)[0])
  training = f'python -m cdd.main --config=configs/{task}.py:small,method=finetune'
  made = dict(
    commands=[training, f'python -m benchmarks.undistilled {task} {weights}'],
    weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
  )
  out = stored.Stored(rows, pictures, examples, configs['small'].steps, made)
  stored.write(assets.RESULTS / f'{task}_finetune', out)


if __name__ == '__main__':
  if len(sys.argv) != 3:
    sys.exit('usage: python -m benchmarks.undistilled TASK WEIGHTS, a trained.safetensors')
  main(sys.argv[1], Path(sys.argv[2]))
