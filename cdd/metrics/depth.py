"""Owns whether images show the depth that was asked for: a network reads it back from them.

The network was trained on rendered scenes, whose depth is known, and is for such scenes alone.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from cdd import assets
from cdd.core.types import Array, Params
from cdd.metrics.metric import mean_of

WIDTHS = (12, 16, 24, 32)  # Of the levels; each halves the one above.


def shapes() -> dict[str, tuple[int, ...]]:
  """The parameters: kernels [h, w, i, o] and biases [o]."""
  out = {}

  def conv(name, inputs, outputs):
    out[f'{name}.weight'], out[f'{name}.bias'] = (3, 3, inputs, outputs), (outputs,)

  for level, width in enumerate(WIDTHS):
    conv(f'down{level}.0', 3 if level == 0 else WIDTHS[level - 1], width)
    conv(f'down{level}.1', width, width)
  for level in reversed(range(len(WIDTHS) - 1)):
    conv(f'up{level}', WIDTHS[level + 1] + WIDTHS[level], WIDTHS[level])
  conv('out', WIDTHS[0], 1)
  return out


def read(params: Params, images: Array) -> Array:
  """Images [b, H, W, 3] in [0, 1] -> how near each pixel is, [b, H, W] in 0..1.

  As the task depth makes its condition: inverse depth, 1 the nearest of a picture. The sides are
  multiples of 8.
  """
  x, skips = 2 * images - 1, []
  for level in range(len(WIDTHS)):
    x = jax.nn.relu(_conv(params, f'down{level}.0', x, stride=2 if level else 1))
    x = jax.nn.relu(_conv(params, f'down{level}.1', x))
    skips.append(x)
  for level in reversed(range(len(WIDTHS) - 1)):
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    x = jnp.concatenate([x, skips[level]], axis=-1)
    x = jax.nn.relu(_conv(params, f'up{level}', x))
  return jax.nn.sigmoid(_conv(params, 'out', x))[..., 0]


def _conv(params: Params, name: str, x: Array, *, stride: int = 1) -> Array:
  x = jax.lax.conv_general_dilated(
    x,
    params[f'{name}.weight'],
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return x + params[f'{name}.bias'][None, None, None]


@functools.cache
def load() -> Params:
  """The packaged weights, float32 on the host."""
  return unpacked(load_file(assets.DEPTH))


def packed(params: Params) -> dict[str, np.ndarray]:
  """The parameters as they are stored: each in 255 levels of its largest value, its `.scale`."""
  out = {}
  for name, leaf in params.items():
    scale = np.abs(leaf).max() / 127
    out[name], out[f'{name}.scale'] = np.int8(np.round(leaf / scale)), np.float32([scale])
  return out


def unpacked(stored: dict[str, np.ndarray]) -> Params:
  """The parameters of what `packed` made."""
  return {name: np.float32(stored[name]) * stored[f'{name}.scale'] for name in shapes()}


_compiled = jax.jit(read)


def error(images: np.ndarray, condition: np.ndarray) -> np.ndarray:
  """[b], the mean absolute error of what is read of the images against the condition's depth."""
  near = np.asarray(_compiled(load(), images))
  return np.abs(near - condition[..., 0]).mean((1, 2))


DEPTH = mean_of(error, label='Depth', better=min, digits=3)._replace(
  reads=('condition',),
  least=2 ** (len(WIDTHS) - 1),
  multiple=2 ** (len(WIDTHS) - 1),
  note='Depth: the mean difference between the depth that a small network reads of an image and '
  'the condition; the network knows rendered scenes alone.',
)
