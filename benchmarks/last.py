"""A run that has ended, measured by its last weights in place of their average.

python -m benchmarks.last RUN   (its own report and metrics.json stay as they are)
"""

import json
import sys
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

from cdd.runs import loop, report
from cdd.runs.experiment import experiment


def main(folder: Path) -> None:
  if not (folder / 'metrics.json').exists():
    sys.exit(f'{folder} has no metrics.json: that run has not ended yet.')
  config = ConfigDict(json.loads((folder / 'config.json').read_text()))
  bound = experiment(config, folder)
  state = loop.fit(bound, config, folder)
  with tempfile.TemporaryDirectory() as scratch:
    report.evaluate(bound, config, state.params, Path(scratch))


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit('usage: python -m benchmarks.last RUN, a folder with config.json and checkpoints')
  main(Path(sys.argv[1]))
