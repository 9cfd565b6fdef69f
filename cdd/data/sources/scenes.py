"""Owns rendered scenes as a source."""

from cdd.core.errors import UserError
from cdd.data import transforms
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
  """Rendered scenes with exact depth and, if asked, edited twins (cdd.data.scenes).

  Raises:
    UserError: a setting is out of range.
  """
  for side in size if isinstance(size, list | tuple) else (size,):
    transforms.check(size=side, seed=seed, length=length)
  try:
    return Scenes(size=size, seed=seed, start=start, length=length, detail=detail, edits=edits)
  except (TypeError, ValueError) as error:
    raise UserError(f'The source of scenes: {error}.') from error
