"""Measures an undistilled model once, for the reports that show it beside their own run.

python -m benchmarks.undistilled TASK:SIZE WEIGHTS

WEIGHTS is the export/trained.safetensors of a run of configs/TASK.py:SIZE,method=finetune. The
rows and the first images go to cdd/assets/results/TASK_SIZE_finetune.json and .jpg, which ship; the
weights do not. `python .ci/assets.py` then lists the files.
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

# A size -> those whose reports show it, with the same held-out examples but other numbers of them.
SHOWN_BY = dict(tiny=('tiny',), small=('tiny', 'small'))
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


def main(task: str, size: str, weights: Path) -> None:
  configs = {
    other: cli.load(cli.CONFIGS / f'{task}.py', f'{other},method=finetune')
    for other in SHOWN_BY[size]
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
  name = f'{task}_{size}_finetune'
  made = dict(
    commands=[
      f'python -m cdd.main --config=configs/{task}.py:{size},method=finetune',
      f'python -m benchmarks.undistilled {task}:{size} runs/{name}/export/trained.safetensors',
    ],
    weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
  )
  out = stored.Stored(rows, pictures, examples, configs[size].steps, made)
  stored.write(assets.RESULTS / name, out)


if __name__ == '__main__':
  task, _, size = sys.argv[1].partition(':') if len(sys.argv) == 3 else ('', '', '')
  if size not in SHOWN_BY:
    sys.exit(
      f'usage: python -m benchmarks.undistilled TASK:SIZE WEIGHTS, a size of {[*SHOWN_BY]} and a '
      'trained.safetensors'
    )
  main(task, size, Path(sys.argv[2]))
