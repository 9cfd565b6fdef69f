"""Owns the packaged photographs as a source."""

from collections.abc import Sequence

from cdd import assets
from cdd.data.sources.image_folder import image_folder
from cdd.data.sources.needs import refuse_others


def photos(
  needs: Sequence[str] = ('image',),
  /,
  *,
  split: str,
  size: int | tuple,
  seed: int = 0,
  length: int = 10_000_000,
):
  """Crops of the packaged photographs; those of the split 'test' are held out whole."""
  refuse_others(needs, ('image',), 'photos')
  return image_folder(needs, path=assets.PHOTOS, split=split, size=size, seed=seed, length=length)
