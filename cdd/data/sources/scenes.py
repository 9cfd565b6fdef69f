"""Owns rendered scenes as a source."""

from cdd.data.scenes import Scenes


def scenes(
  *,
  size: int,
  seed: int = 0,
  start: int = 0,
  length: int = 10_000_000,
  detail: float = 0.7,
  edits: bool = False,
):
  """Rendered scenes with exact depth and, if asked, edited twins (cdd.data.scenes)."""
  return Scenes(size=size, seed=seed, start=start, length=length, detail=detail, edits=edits)
