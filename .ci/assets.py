"""Writes cdd/assets/shipped.json anew after a file that ships has changed: python .ci/assets.py."""

from cdd import assets
from cdd.core import files

if __name__ == '__main__':
  found = assets.found()
  files.write_json(assets.LIST, {name: asset._asdict() for name, asset in found.items()})
  print(f'{len(found)} files, {sum(asset.size for asset in found.values()):,} bytes.')
