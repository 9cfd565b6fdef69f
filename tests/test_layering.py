"""The picture of layers in docs/design.md, kept true: imports go downward only; files are short."""

import ast
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
TABLE = re.findall(r'^[|] L\d+ [|]([^|]*)[|]', (ROOT / 'docs/design.md').read_text(), re.M)
LEVEL = {name: level for level, row in enumerate(TABLE) for name in re.findall(r'`(\w+)`', row)}


def modules(path):
  """The names of the modules that a file imports, in full; those of `from cdd import NAME` too."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path} imports relatively'
      cdd = node.module == 'cdd'
      yield from (f'cdd.{alias.name}' for alias in node.names) if cdd else (node.module,)
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)


def imports(path):
  """The rooms of cdd that a file imports from: 'diffusion', 'models', ..."""
  return [name.split('.')[1] for name in modules(path) if name.startswith('cdd.')]


def files():
  """(room or command line, path) of every file of the library; configs only ship with it."""
  for path in sorted((ROOT / 'cdd').rglob('*.py')):
    owner = path.relative_to(ROOT / 'cdd').parts[0].removesuffix('.py')
    if owner not in ('__init__', 'configs'):
      yield owner, path


def test_the_table_of_layers_names_every_module_and_no_other():
  assert {owner for owner, _ in files()} == LEVEL.keys()


def test_imports_go_downward_only():
  wrong = [
    f'{path.relative_to(ROOT)} imports {name}'
    for owner, path in files()
    for name in imports(path)
    if name != owner and LEVEL[name] >= LEVEL[owner]
  ]
  assert not wrong


def test_nothing_stands_at_the_top_but_command_lines_which_nothing_imports():
  top = {owner: path for owner, path in files() if path.parent == ROOT / 'cdd'}
  last = {name for name, level in LEVEL.items() if level == len(TABLE) - 1}
  assert top.keys() == last
  assert all("if __name__ == '__main__':" in path.read_text() for path in top.values())
  assert not {name for _, path in files() for name in imports(path)} & top.keys()


def test_the_mathematics_knows_no_network_and_no_config():
  paths = (ROOT / 'cdd' / 'diffusion').rglob('*.py')
  known = {name.split('.')[0] for path in paths for name in modules(path)}
  assert known and not known & {'flax', 'ml_collections', 'optax'}


def test_only_what_opens_models_runs_or_flags_knows_configs():
  readers = {owner for owner, path in files() if 'ml_collections' in {*modules(path)}}
  assert readers <= {'core', 'pretrained', 'sampling', 'runs'}


def test_configs_never_import_the_library():
  assert not [p for p in (ROOT / 'configs').rglob('*.py') if imports(p)]


def test_a_file_is_read_in_one_sitting():
  lengths = {path: len(path.read_text().splitlines()) for _, path in files()}
  print(f'{len(lengths)} files, median {statistics.median(lengths.values())}')
  assert statistics.median(lengths.values()) <= 100
  assert np.percentile([*lengths.values()], 90) <= 220
  assert not {path.name: length for path, length in lengths.items() if length > 380}


IMPORTED = """
import importlib, os, sys
for name in sys.argv[1:]:
  importlib.import_module(name)
  assert 'XLA_FLAGS' not in os.environ, name
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""


def test_importing_any_part_of_the_library_sets_no_flag_and_starts_no_device():
  dotted = lambda path: '.'.join(path.relative_to(ROOT).with_suffix('').parts)
  names = [dotted(path).removesuffix('.__init__') for _, path in files()]
  assert {'cdd.sampling', 'cdd.runs.experiment', 'cdd.main'} <= {*names}
  env = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  done = subprocess.run(
    [sys.executable, '-c', IMPORTED, *names], cwd=ROOT, env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
