"""Owns rendered scenes as a source."""

from collections.abc import Sequence

from cdd.core.errors import UserError
from cdd.data import transforms
from cdd.data.scenes import Scenes
from cdd.data.sources.needs import refuse_others


def scenes(
  needs: Sequence[str] = ('image',),
  /,
  *,
  size: int | tuple,
  seed: int = 0,
  start: int = 0,
  length: int = 10_000_000,
  detail: float = 0.7,
  variety: str = 'all',
):
  """Rendered scenes with exact depth and, if needed, edited twins (cdd.data.scenes).

  Raises:
    UserError: a setting is out of range.
  """
  refuse_others(needs, ('image', 'depth', 'edited_image'), 'scenes')
  edits = 'edited_image' in needs
  transforms.check(size=size, seed=seed, length=length)
  try:
    settings = dict(seed=seed, start=start, length=length, detail=detail, variety=variety)
    return Scenes(size=size, edits=edits, **settings)
  except (TypeError, ValueError) as error:
    raise UserError(f'The source of scenes: {error}.') from error
