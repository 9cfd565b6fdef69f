"""Owns the one way from a path or a name to a model: a folder, a run, what ships, or the hub's."""

from pathlib import Path
from typing import Any, NamedTuple

from cdd import assets
from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.registry import choose
from cdd.pretrained import hub, trained, weights
from cdd.training import checkpoint, integrity

SHOULD_BE = " It should be a diffusers folder, a hub's owner/name, or 'packaged'."


class Found(NamedTuple):
  """Where a model lies, and what kind it is of.

  Attributes:
    path: the folder of a pipeline or an adapter; a single file; the workdir of a run.
    config: the config of a run, as a dict; None for anything else.
    weights: the trained parameters of a run, a file or a checkpoint; None for anything else.
    adapter: whether the folder holds a single network, an adapter.
  """

  path: Path
  config: dict[str, Any] | None = None
  weights: Path | None = None
  adapter: bool = False


def locate(
  source: str | Path,
  *,
  variant: str | None = None,
  step: int | None = None,
  what: str = 'pretrained model',
) -> Found:
  """Looks for a model.

  Args:
    source: 'packaged', the prior that ships; 'packaged:depth' and the like, the models that ship; a
      diffusers folder, or an adapter's; a run's workdir or its export/; a file; or 'owner/name'
      of the hub, which is downloaded. Of a run that has not ended it is the newest checkpoint.
    variant: of the hub's weight files, such as 'fp16'.
    step: of a run's checkpoint, in place of what it exported.
    what: what messages call it.

  Raises:
    UserError: there is no such packaged model or folder, the hub does not give it, or it is a run
      without such a checkpoint. For a local path that is missing (`places.is_local`), no hub is
      asked.
  """
  source = str(source)
  folder = Path(source).expanduser()
  if step is not None:
    places.refuse_missing(source, 'run')
    return of_run(folder, step)
  if source == 'packaged':
    return Found(assets.PRIOR)
  if source.startswith('packaged:'):
    path = choose(assets.trained(), source.removeprefix('packaged:'), 'packaged model')
    return Found(path.parent, weights.read_json(path.with_suffix('.json')), path)
  if not folder.exists():
    if places.is_local(source):  # The hub is not asked: it knows no folder of this computer.
      places.refuse_missing(source, what)
    if not hub.is_id(source):
      places.refuse_missing(source, what, SHOULD_BE)
    folder = hub.download(source, variant=variant)
  for place in (folder / 'export', folder):
    if (place / trained.NAME).exists() and (place / 'config.json').exists():
      workdir = place.parent if place.name == 'export' else place
      return Found(workdir, weights.read_json(place / 'config.json'), place / trained.NAME)
    if (place / 'model_index.json').exists():
      return Found(place)
  fields = weights.read_json(folder / 'config.json') if (folder / 'config.json').exists() else {}
  if 'trainable' in fields:
    return of_run(folder)
  return Found(folder, adapter='_class_name' in fields)


def of_run(workdir: Path, step: int | None = None) -> Found:
  """The checkpoint of a step of a run, or its newest that is whole.

  Raises:
    UserError: there is none.
  """
  folder, there = workdir / 'checkpoints', checkpoint.steps(workdir / 'checkpoints')
  if not there:
    raise UserError(f'{workdir} is no run with a checkpoint: there is none in {folder}.')
  if step not in (None, *there):
    raise UserError(f'{workdir} has no checkpoint of step {step}; choose one of {there}.')
  if step is None:
    whole = (at for at in reversed(there) if not integrity.fault(folder / str(at)))
    step = next(whole, there[-1])
  return Found(workdir, weights.read_json(workdir / 'config.json'), folder / str(step))


def pipeline(source: str | Path, *, variant: str | None = None) -> Path:
  """The folder of a text-to-image pipeline.

  Raises:
    UserError: there is none.
  """
  found = locate(source, variant=variant)
  if found.config is not None:
    raise UserError(f'{source} is a run, not a text-to-image pipeline in a diffusers folder.')
  if not found.path.is_dir():
    raise UserError(f'{str(source)!r} is a file, and no pretrained model.{SHOULD_BE}')
  return found.path
