"""The picture of layers in docs/design.md, kept true: imports go downward only."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = re.findall(r'^[|] L\d+ [|]([^|]*)[|]', (ROOT / 'docs/design.md').read_text(), re.M)
LEVEL = {name: level for level, row in enumerate(TABLE) for name in re.findall(r'`(\w+)`', row)}


def imports(path):
  """The cdd modules that a file imports: 'diffusion', 'models', ..."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      parts = node.module.split('.')
      if parts == ['cdd']:
        yield from (alias.name for alias in node.names)
      elif parts[0] == 'cdd':
        yield parts[1]
    elif isinstance(node, ast.Import):
      yield from (n.name.split('.')[1] for n in node.names if n.name.startswith('cdd.'))


def files():
  for path in sorted((ROOT / 'cdd').rglob('*.py')):
    owner = path.relative_to(ROOT / 'cdd').parts[0].removesuffix('.py')
    if owner != '__init__':
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


def test_the_mathematics_knows_no_network_and_no_config():
  text = ''.join(p.read_text() for p in (ROOT / 'cdd' / 'diffusion').rglob('*.py'))
  assert not any(name in text for name in ('flax', 'ml_collections', 'optax'))


def test_configs_never_import_the_library():
  assert not [p for p in (ROOT / 'configs').rglob('*.py') if list(imports(p))]
