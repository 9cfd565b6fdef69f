"""Owns downloads from the hub: the files that loading a model needs."""

import re
from collections.abc import Collection
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
    lacking = without(source, variant) if variant else ()
    wanted = patterns(variant, lacking)
    return Path(huggingface_hub.snapshot_download(source, allow_patterns=wanted))
  except (OSError, HfHubHTTPError, HFValidationError) as error:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise UserError(
      f'There is no pretrained model at {source!r}: no such folder, and the hub did not give it '
      f'({first}).'
    ) from error


def without(source: str, variant: str) -> set[str]:
  """The components whose weights the hub has, but not in this variant; {} if it cannot be asked."""
  import huggingface_hub
  from huggingface_hub.errors import HfHubHTTPError, HFValidationError

  try:
    files = huggingface_hub.list_repo_files(source)
  except (OSError, HfHubHTTPError, HFValidationError):  # What was downloaded before may be enough.
    return set()
  of_component = {
    name: [file for file in files if file.startswith(f'{name}/{component.stem}')]
    for name, component in COMPONENTS.items()
  }
  return {
    name for name, found in of_component.items() if not any(f'.{variant}' in file for file in found)
  }


def patterns(variant: str | None, lacking: Collection[str] = ()) -> list[str]:
  """The files that loading needs: configs, tokenizers, and the weights of one variant.

  Args:
    lacking: components that have none in this variant; theirs are the plain ones.
  """
  stems = {name: f'{name}/{component.stem}' for name, component in COMPONENTS.items()}
  stems['adapter'] = 'diffusion_pytorch_model'
  wanted = ['*.json', '*/merges.txt']
  for name, stem in stems.items():
    middle = f'.{variant}' if variant and name not in lacking else ''
    ends = dict.fromkeys((middle, f'{middle}-*-of-*', f'-*-of-*{middle}'))
    wanted += [f'{stem}{end}.safetensors' for end in ends]
  return wanted
