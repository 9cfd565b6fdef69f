"""Owns the mapping from torch's keys and layouts to ours: the path is the key but for its leaf."""

from collections.abc import Mapping

import numpy as np

from cdd.errors import UserError

WEIGHTS = ('kernel', 'scale', 'embedding')  # What torch calls 'weight' on its three kinds of layer.


def torch_key(path: str) -> str:
  """'down_blocks.0.conv1.kernel' -> 'down_blocks.0.conv1.weight'."""
  stem, _, leaf = path.rpartition('.')
  return f'{stem}.weight' if leaf in WEIGHTS else path


def from_torch(path: str, array: np.ndarray) -> np.ndarray:
  """A tensor in our layout: OIHW -> HWIO, [out, in] -> [in, out], else unchanged."""
  if not path.endswith('.kernel'):
    return array
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_torch(path: str, array: np.ndarray) -> np.ndarray:
  """The inverse of `from_torch`."""
  if not path.endswith('.kernel'):
    return array
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def convert(
  tensors: Mapping[str, np.ndarray], shapes: Mapping, where: str
) -> dict[str, np.ndarray]:
  """Torch tensors as a flat tree of ours, float32.

  Args:
    shapes: our paths, with leaves that have a shape.
    where: the file, for messages.

  Raises:
    UserError: lists every missing, unexpected and mis-shaped tensor.
  """
  keys = {torch_key(path): path for path in shapes}
  problems = [f'missing {key}' for key in keys if key not in tensors]
  problems += [f'unexpected {key}' for key in tensors if key not in keys]
  out = {}
  for key, path in keys.items():
    if key in tensors:
      array = from_torch(path, tensors[key])
      if array.shape == tuple(shapes[path].shape):
        out[path] = np.ascontiguousarray(array, np.float32)
      else:
        problems.append(f'{key} has shape {tensors[key].shape}, not that of {shapes[path].shape}')
  if problems:
    raise UserError(f'{where} does not fit its config.json: ' + '; '.join(sorted(problems)))
  return out
