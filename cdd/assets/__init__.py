"""Owns what ships with the package: the prior, trained models, photographs and LPIPS' weights."""

from pathlib import Path

FOLDER = Path(__file__).parent
PRIOR = FOLDER / 'prior'
PHOTOS = FOLDER / 'photos'
TRAINED = FOLDER / 'trained'
LPIPS = FOLDER / 'lpips_alex.safetensors'
