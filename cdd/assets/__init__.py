"""Owns what ships with the package: where it lies, what it is, and the command that made it."""

from pathlib import Path

FOLDER = Path(__file__).parent
PRIOR = FOLDER / 'prior'
PHOTOS = FOLDER / 'photos'
TRAINED = FOLDER / 'trained'
LPIPS = FOLDER / 'lpips_alex.safetensors'


def trained() -> dict[str, Path]:
  """The conditional models that ship: name -> weights; the config lies beside as NAME.json."""
  return {path.stem: path for path in sorted(TRAINED.glob('*.safetensors'))}
