"""Owns what ships with the package: where it lies, its size, and the command that made it."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
PRIOR = FOLDER / 'prior'
PHOTOS = FOLDER / 'photos'  # LICENSES.md there says where each comes from.
TRAINED = FOLDER / 'trained'
RESULTS = FOLDER / 'results'
LPIPS = FOLDER / 'lpips_alex.safetensors'
DEPTH = FOLDER / 'depth_reader.safetensors'
LIST = FOLDER / 'shipped.json'  # Sizes and sums, written by .ci/assets.py.

# How a file, or every file of a folder, was made.
MADE = {
  'depth_reader.safetensors': 'python -m benchmarks.depth_reader --weights=...',
  'lpips_alex.safetensors': (
    "torchvision's alexnet(weights='IMAGENET1K_V1').features as float16, and the heads of "
    "lpips.LPIPS(net='alex') of lpips 0.1.4 as float32"
  ),
  'prior/': 'make prior, the last of six stages (docs/prior.md), of commit 17bfa90 and before; its '
  'export/ is the folder',
  'trained/depth.': 'python -m cdd.main --config=configs/depth.py:small,method=step_aware',
  'trained/super_resolution.': 'python -m cdd.main --config=configs/super_resolution.py:small',
  # Their JSON has the commands in full, and the sha256 of the weights.
  'results/': 'python -m benchmarks.undistilled TASK:SIZE WEIGHTS',
}


class Asset(NamedTuple):
  """A file that ships.

  Attributes:
    size: in bytes.
    sha256: of what is in it.
    made: the command that made it.
  """

  size: int
  sha256: str
  made: str


def trained() -> dict[str, Path]:
  """The conditional models that ship: name -> weights; the config lies beside as NAME.json."""
  return {path.stem: path for path in sorted(TRAINED.glob('*.safetensors'))}


def listed() -> dict[str, Asset]:
  """Every file that ships but the photographs: path below `FOLDER` -> what the list says of it."""
  return {name: Asset(**fields) for name, fields in json.loads(LIST.read_text()).items()}


def found() -> dict[str, Asset]:
  """The same, measured anew.

  Raises:
    ValueError: a file of which `MADE` does not say how it was made, or says it twice.
  """
  files = (path for path in sorted(FOLDER.rglob('*')) if path.is_file() and path != LIST)
  files = (path for path in files if path.suffix not in ('.py', '.pyc', '.tmp'))
  return {
    path.relative_to(FOLDER).as_posix(): _measured(path)
    for path in files
    if PHOTOS not in path.parents
  }


def _measured(path: Path) -> Asset:
  name, data = path.relative_to(FOLDER).as_posix(), path.read_bytes()
  commands = [made for start, made in MADE.items() if name.startswith(start)]
  if len(commands) != 1:
    raise ValueError(f'cdd.assets.MADE says {len(commands)} times how {name!r} was made, not once.')
  return Asset(len(data), hashlib.sha256(data).hexdigest(), commands[0])
