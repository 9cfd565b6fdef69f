"""Owns downloads from the hub: the files that loading a model needs."""

import re
from pathlib import Path

from cdd.core.errors import UserError
from cdd.pretrained.families import COMPONENTS


def is_id(source: str) -> bool:
  """Whether a text has the form 'owner/name'."""
  return bool(re.fullmatch(r'[\w-][\w.-]*/[\w-][\w.-]*', source))


def download(source: str, *, variant: str | None = None) -> Path:
  """The local copy of the hub's 'owner/name'.

  Raises:
    UserError: there is no such model, or no way to the hub.
  """
  try:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
  except ImportError as error:
    raise UserError(
      f'There is no pretrained model at {source!r}, and huggingface_hub, which would download it, '
      'is not installed: pip install huggingface_hub.'
    ) from error
  try:
    return Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns(variant)))
  except (OSError, HfHubHTTPError, HFValidationError) as error:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise UserError(
      f'There is no pretrained model at {source!r}: no such folder, and the hub did not give it '
      f'({first}).'
    ) from error


def patterns(variant: str | None) -> list[str]:
  """The files that loading needs: configs, tokenizers, and the weights of one variant."""
  stems = [f'{name}/{component.stem}' for name, component in COMPONENTS.items()]
  stems.append('diffusion_pytorch_model')  # An adapter's.
  middle = f'.{variant}' if variant else ''
  weights = [f'{stem}{middle}.safetensors' for stem in stems]
  shards = [f'{stem}{end}' for stem in stems for end in (f'{middle}-*-of-*', f'-*-of-*{middle}')]
  return ['*.json', '*/merges.txt', *weights, *(f'{shard}.safetensors' for shard in shards)]
