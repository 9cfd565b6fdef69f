"""Owns conversion: any model that is read here, written in diffusers' layout."""

from pathlib import Path

from ml_collections import ConfigDict

from cdd.core import files, trees
from cdd.core.errors import UserError
from cdd.models.adapters.adapter import Spec
from cdd.pretrained import (
  adapter_folders,
  diffusers,
  families,
  locate,
  priors,
  scheduler,
  trained,
  weights,
)


def convert(
  source: str,
  target: Path,
  *,
  dtype=None,
  variant: str | None = None,
  max_shard_size: int = weights.SHARD,
  adapter: str | None = None,
  prior: str | None = None,
  step: int | None = None,
) -> str:
  """Writes what `source` holds to the folder `target`, complete or not at all.

  `step` is that of a run's checkpoint, in place of what it exported.

  Returns:
    What was written, in words.

  Raises:
    UserError: the source is missing, broken or of a kind that is not read.
  """
  found = locate.locate(source, variant=variant, step=step)
  if adapter:
    return of_single(found.path, target, adapter, prior, dtype=dtype)
  if found.config is not None:
    return of_run(found, target, dtype=dtype, max_shard_size=max_shard_size)
  if found.adapter:
    spec = adapter_folders.config_of(found.path)
    params = adapter_folders.load(found.path, spec, variant=variant, dtype=dtype)
    return of_adapter(spec, params, target, dtype=dtype)
  pipeline = diffusers.load(found.path, dtype=dtype, variant=variant)
  diffusers.save(pipeline, target, dtype=dtype, max_shard_size=max_shard_size)
  omitted = f'; left out: {", ".join(pipeline.extras)}' if pipeline.extras else ''
  return f'{diffusers.new_index(pipeline)["_class_name"]} ({", ".join(pipeline.configs)}{omitted})'


def of_single(file: Path, target: Path, adapter: str, prior: str | None, *, dtype) -> str:
  """A single file with the weights of an adapter, beside the prior whose U-Net it belongs to."""
  if not prior:
    raise UserError(f'--adapter={adapter} needs --prior, the model that it belongs to.')
  fields = weights.read_json(locate.pipeline(prior) / 'unet' / 'config.json')
  settings = dict(name=adapter, path=str(file))
  spec, params = adapter_folders.start(settings, families.parse('unet', fields))
  return of_adapter(spec, params, target, dtype=dtype)


def of_adapter(spec: Spec, params, target: Path, *, dtype) -> str:
  adapter_folders.save(spec, params, target, dtype=dtype)
  return adapter_folders.LAYOUTS[spec.name].kind


def of_run(found: locate.Found, target: Path, *, dtype, max_shard_size: int) -> str:
  """A run's θ⁻: the pipeline if it was trained, with the adapter below it; else the adapter."""
  config = ConfigDict(found.config)
  prior = priors.load(config.prior, found.path, ())
  settings = config.model.adapter
  spec, _ = adapter_folders.start(settings, prior.configs['unet'])
  networks, added = priors.networks(config.model, prior, beside=priors.beside_of(config.method))
  everything = {**prior.params, **added}
  train = trees.labelled(config.trainable, everything)['train']
  everything.update(trained.load(found.weights, train))
  adapter = trees.select(everything, 'adapter')
  if adapter and all(path.startswith('adapter.') for path in train):
    return of_adapter(spec, adapter, target, dtype=dtype)
  pipeline = diffusers.of_params(prior, everything)
  given = dict(scheduler=scheduler.of_run(prior.scheduler), beside=networks.beside)
  pipeline = pipeline._replace(**given)
  with files.atomic(target) as new:
    diffusers.save(pipeline, new, dtype=dtype, max_shard_size=max_shard_size)
    if adapter:
      adapter_folders.save(spec, adapter, new / spec.name, dtype=dtype)
  name = diffusers.new_index(pipeline)['_class_name']
  if not adapter:
    return name
  kind = adapter_folders.LAYOUTS[spec.name].kind
  return f'{name}, and {kind} in {spec.name}/, without which it draws from text alone'
