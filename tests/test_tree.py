"""The repository stays light, and of all that ships it is known what it is."""

import subprocess
from pathlib import Path

import pytest

from cdd import assets

ROOT = Path(__file__).parents[1]
MIB = 2**20


@pytest.fixture(scope='module')
def sizes():
  """Every file under version control that is there -> its size in bytes."""
  if not (ROOT / '.git').exists():
    pytest.skip('not a git checkout')
  names = subprocess.check_output(['git', 'ls-files', '-z'], cwd=ROOT, text=True).split('\0')
  paths = [ROOT / name for name in names if name]
  return {path: path.lstat().st_size for path in paths if path.exists() or path.is_symlink()}


def test_the_working_tree_is_under_48_mib(sizes):
  assert sum(sizes.values()) < 48 * MIB


def test_files_over_one_mib_are_listed_as_assets(sizes):
  listed = {assets.FOLDER / name for name in assets.listed()}
  assert not {path for path, size in sizes.items() if size > MIB} - listed


def test_the_list_of_assets_is_true():
  """sha256sum is another implementation than the one that wrote the list."""
  listed = assets.listed()
  assert listed == assets.found(), 'cdd/assets/shipped.json is old: run python .ci/assets.py'
  sums = subprocess.check_output(['sha256sum', *listed], cwd=assets.FOLDER, text=True)
  for line in sums.splitlines():
    value, name = line.split(maxsplit=1)
    assert listed[name].sha256 == value
    assert listed[name].size == (assets.FOLDER / name).stat().st_size


def test_every_photograph_has_its_line_in_the_licences():
  said = (assets.PHOTOS / 'LICENSES.md').read_text()
  assert not [path.name for path in assets.PHOTOS.glob('*.jpg') if f'| {path.name} |' not in said]
