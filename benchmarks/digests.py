"""Digests of what short runs train, to prove that a change of the code changes no trained bit.

python -m benchmarks.digests [--steps=20] [NAME ...]

Each run goes through `python -m cdd.main` of the working folder; the digest is of every array of
its last checkpoint (parameters, target, optimiser). Two commits agree if their digests do: copy
this file into a clone of the older one and run it there.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

RUNS = (
  'depth.py:tiny',
  'super_resolution.py:tiny',
  'depth.py:tiny,method=finetune',
  'depth.py:tiny,method=paper',
  'depth.py:tiny,adapter=controlnet,train=adapter',
)


def train(name: str, steps: int, workdir: Path) -> None:
  """Runs the config without an evaluation to speak of."""
  settings = dict(steps=steps)
  settings |= {'log.samples_every': 0, 'log.checkpoint_every': steps}
  settings |= {'evaluation.count': 2, 'evaluation.batch_size': 2}
  settings |= {'evaluation.steps': '(1,)', 'evaluation.shipped': '()'}
  flags = [f'--config.{field}={value}' for field, value in settings.items()]
  command = [sys.executable, '-m', 'cdd.main', f'--config=configs/{name}', *flags]
  subprocess.run([*command, f'--workdir={workdir}'], check=True, capture_output=True)


def digest(workdir: Path, steps: int) -> str:
  """sha256 of the state's leaves, in the order of their paths."""
  state = ocp.PyTreeCheckpointer().restore(
    (workdir / 'checkpoints' / str(steps) / 'state').absolute()
  )
  total = hashlib.sha256()
  leaves = jax.tree_util.tree_flatten_with_path(state)[0]
  for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
    total.update(path.encode() + np.ascontiguousarray(leaf).tobytes())
  return total.hexdigest()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('names', nargs='*', default=RUNS)
  parser.add_argument('--steps', type=int, default=20)
  arguments = parser.parse_args()
  # One core: how a sum is split over threads decides how it is rounded.
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  for name in arguments.names:
    with tempfile.TemporaryDirectory() as folder:
      train(name, arguments.steps, Path(folder) / 'run')
      print(f'{digest(Path(folder) / "run", arguments.steps)}  {name}', flush=True)


if __name__ == '__main__':
  main()
