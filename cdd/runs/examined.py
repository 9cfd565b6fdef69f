"""Owns which held-out examples a model is evaluated on: those of a config, or one's own files."""

from ml_collections import ConfigDict

from cdd.core import cli
from cdd.core.errors import UserError
from cdd.pretrained import locate


def of_model(found: locate.Found) -> ConfigDict | None:
  """The config of the run that made a model; None of anything else."""
  return None if found.config is None else ConfigDict(found.config)


def config(model: str, own: ConfigDict | None, given: ConfigDict | None, path: str | None):
  """The config of the examples: the given one or the model's, with the files at `path` if any.

  Args:
    model: what messages call it.

  Raises:
    UserError: nothing says what the examples are.
  """
  chosen = own if given is None else given
  if chosen is None:
    raise UserError(
      f'{model} says nothing of held-out examples: give --config=depth:tiny or another, with '
      '--config=depth:full,data=PATH on your own files.'
    )
  chosen = ConfigDict(chosen.to_dict())
  return on_own_files(chosen, path) if path else chosen


def on_own_files(config: ConfigDict, path: str) -> ConfigDict:
  """The config with the held-out examples that `data=PATH` of its shipped config reads.

  Settings of the task that one's own files need, such as depth_kind='inverse', are taken too where
  the config is of packaged examples.

  Raises:
    UserError: it is of no config that ships.
  """
  task = config.get('task')
  if task not in cli.shipped():
    raise UserError(
      f'--data is for the tasks {cli.shipped()}; give --config with its sources instead.'
    )
  argument = 'tiny,adapter=none' if config.data.task.name == 'text_to_image' else 'tiny'
  packaged, own = (cli.load(cli.find(task), argument + more) for more in ('', f',data={path}'))
  held_out = config.data.held_out
  size = held_out.get('size') or held_out.sources[0]['size']
  if 'path' not in held_out:
    before = packaged.data.task.to_dict()
    changed = {k: v for k, v in own.data.task.items() if before.get(k) != v}
    config.data.task.update(changed)
  config.data.held_out = ConfigDict(own.data.held_out.to_dict() | dict(size=size))
  metrics = (config.get('evaluation') or {}).get('metrics', ())
  if metrics:  # Depth is read of rendered scenes alone.
    config.evaluation.metrics = tuple(name for name in metrics if name != 'depth')
  return config
