"""The shipped models measure what docs/results says of them (make test-slow; minutes)."""

import json
import runpy

import pytest
import tiny

from cdd.runs import experiment as build, report
from cdd.runs.evaluate import evaluate
from cdd.metrics import lpips
from cdd.pretrained import trained

STEPS = (1, 4)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['depth', 'super_resolution'])
def test_the_shipped_models_measure_what_the_results_say(task, tmp_path):
  config = runpy.run_path(str(tiny.ROOT / f'configs/{task}.py'))['get_config']('tiny')
  experiment = build.experiment(config, tmp_path)
  batches = experiment.held_out(1024, 32)
  documented = json.loads((tiny.ROOT / f'docs/results/{task}.json').read_text())
  for model, label in zip(config.evaluation.shipped, ('finetune', 'ours'), strict=True):
    tree = trained.load(report.SHIPPED / model['file'], experiment.abstract.params)
    for steps in STEPS:
      sample = lambda batch, seed, tree=tree, steps=steps, model=model: experiment.sample(
        tree, batch, seed, sampler=model['sampler'], steps=steps
      )
      row, _ = evaluate(sample, batches, weights=lpips.load())
      (said,) = [r for r in documented if (r['method'], r['steps']) == (label, steps)]
      # The files are float16, what was documented float32.
      assert row['lpips'] == pytest.approx(said['lpips'], rel=0.02)
      assert row['frechet'] == pytest.approx(said['frechet'], rel=0.02)
