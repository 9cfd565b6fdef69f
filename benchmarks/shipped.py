"""Makes anew what ships, after the packaged prior or a default has changed.

python -m benchmarks.shipped --home=FOLDER             # trains and measures what is not there yet
python -m benchmarks.shipped --home=FOLDER --only=depth_small --cores=0,1   # two runs at once
python -m benchmarks.shipped --home=FOLDER --install   # puts what is there in its place

Each run is a process of one thread on a core of its own, at the lowest priority. One that was
interrupted goes on where it stopped. The runs of seed 0 come first: their models and stored
results are what ships. `--install` writes cdd/assets and docs/results; it leaves alone what no run
has made.
"""

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import spread, undistilled
from cdd import assets
from cdd.core import files
from cdd.reports import grid

# Task -> the method of the model that ships; all are measured.
METHODS = dict(depth='step_aware', super_resolution='conditional')
MEASURED = ('step_aware', 'conditional', 'finetune')
SEEDS = (0, 1, 2)
DOCS = Path('docs/results')
MANY = dict(finetune=('--config.evaluation.steps=(1, 2, 4, 8, 50)',))
ONE_THREAD = dict(OMP_NUM_THREADS='1', XLA_FLAGS='--xla_cpu_multi_thread_eigen=false')


class Run(NamedTuple):
  """A training with its evaluation; `settings` are flags of cdd.main."""

  config: str
  settings: tuple[str, ...] = ()


def runs() -> dict[str, Run]:
  """Name -> a run; in the order in which they are made."""
  alone, found = '--config.evaluation.shipped=()', {}
  for seed in SEEDS:
    settings = (f'--config.seed={seed}', alone)
    for task in METHODS:
      for method in MEASURED:
        config = f'{task}:small,method={method}'
        found[f'{task}_small_{method}_{seed}'] = Run(config, (*settings, *MANY.get(method, ())))
      if seed == 0:
        found[f'{task}_tiny_finetune_0'] = Run(f'{task}:tiny,method=finetune', settings)
  return found


def ended(folder: Path) -> bool:
  """Whether a run was trained, exported and measured."""
  return (folder / 'metrics.json').exists()


def make(home: Path, name: str, core: int) -> None:
  """Trains and measures on one core; the output goes to home/NAME.log."""
  run = runs()[name]
  flags = [f'--config={run.config}', f'--workdir={home / name}', *run.settings]
  command = ['nice', '-n', '19', 'taskset', '-c', str(core), sys.executable, '-m', 'cdd.main']
  with open(home / f'{name}.log', 'a') as log:
    subprocess.run([*command, *flags], env=os.environ | ONE_THREAD, stdout=log, stderr=log)
  print(f'{name}: {"ended" if ended(home / name) else f"failed, see {log.name}"}', flush=True)


def make_all(home: Path, names: list[str], cores: list[int]) -> None:
  """Makes runs, as many at once as there are cores."""
  free = queue.Queue()
  for core in cores:
    free.put(core)

  def one(name):
    core = free.get()
    try:
      make(home, name, core)
    finally:
      free.put(core)

  with ThreadPoolExecutor(len(cores)) as pool:
    list(pool.map(one, names))


def install(home: Path) -> None:
  """Puts what the runs that have ended made in its place."""
  for task, method in METHODS.items():
    for size in undistilled.SHOWN_BY:
      folder = home / f'{task}_{size}_finetune_0'
      if ended(folder):
        undistilled.main(task, size, folder / 'export' / 'trained.safetensors')
    ours, rival = (home / f'{task}_small_{name}_0' for name in (method, 'finetune'))
    if ended(ours) and ended(rival):
      install_model(ours, rival, task)
    if text := table(home, task):
      files.write(DOCS / f'{task}_seeds.txt', text)
  print('Now: python .ci/assets.py')


def install_model(ours: Path, rival: Path, task: str) -> None:
  """Puts the model of a run in its place, with its pictures and the rows of both."""
  for source, kind in (('config.json', 'json'), ('export/trained.safetensors', 'safetensors')):
    with files.atomic(assets.TRAINED / f'{task}.{kind}') as new:
      shutil.copyfile(ours / source, new)
  undistilled_rows = [row for row in rows(rival) if row['method'] == 'finetune']
  files.write_json(DOCS / f'{task}.json', rows(ours) + undistilled_rows)
  with Image.open(ours / 'pictures' / 'ours.png') as picture:
    files.write(DOCS / f'{task}.webp', grid.encode(np.asarray(picture), 'webp', **grid.LIGHT))


def rows(folder: Path) -> list[dict]:
  """What a run measured."""
  return json.loads((folder / 'metrics.json').read_text())


def table(home: Path, task: str) -> str:
  """What the seeds that have ended have in common, method by method."""
  parts = []
  for method in MEASURED:
    names = [f'{task}_small_{method}_{seed}' for seed in SEEDS]
    folders = [home / name for name in names if ended(home / name)]
    if folders:
      command = f'python -m benchmarks.spread {" ".join(folder.name for folder in folders)}'
      found = spread.markdown(spread.spread([*map(rows, folders)]))
      parts.append(f'# {task}:small,method={method}\n$ {command}\n{found}\n')
  return '\n'.join(parts)


def cores(text: str) -> list[int]:
  """'0,1' -> [0, 1], cores that this process may use."""
  found, here = [*map(int, text.split(','))], os.sched_getaffinity(0)
  if not {*found} <= here:
    raise argparse.ArgumentTypeError(f'{text} names cores that are not of {sorted(here)}')
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--home', type=Path, required=True, help='where the runs are kept')
  parser.add_argument('--only', default='', help='how the names of the runs begin')
  first = sorted(os.sched_getaffinity(0))[:1]
  parser.add_argument(
    '--cores', default=first, type=cores, help='such as 0,1: as many runs at once'
  )
  parser.add_argument('--install', action='store_true', help='trains nothing')
  asked = parser.parse_args()
  if asked.install:
    install(asked.home)
    return
  names = [name for name in runs() if name.startswith(asked.only)]
  if not names:
    parser.error(f'no run begins with {asked.only!r}; there are {", ".join(runs())}')
  names = [name for name in names if not ended(asked.home / name)]
  asked.home.mkdir(parents=True, exist_ok=True)
  make_all(asked.home, names, asked.cores)
  sys.exit(not all(ended(asked.home / name) for name in names))


if __name__ == '__main__':
  main()
