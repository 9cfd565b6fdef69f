"""Resizing between traced sizes against torch.nn.functional.interpolate."""

import jax
import numpy as np
import pytest
import torch

from cdd.data.degradations import resize

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
SIDE = 48
IMAGE = RNG.uniform(size=(3, SIDE, SIDE)).astype(np.float32)


@jax.jit
def ours(image, mode, before, after, steps):
  """On a canvas larger than any result."""
  return resize.resized(image, mode, before, after, steps, (80, 80))


def interpolated(image, **settings):
  return torch.nn.functional.interpolate(torch.tensor(image)[None], **settings)[0].numpy()


def check(out, theirs):
  height, width = theirs.shape[1:]
  np.testing.assert_allclose(out[:, :height, :width], theirs, atol=1e-5)
  assert not out[:, height:].any() and not out[:, :, width:].any()


@pytest.mark.parametrize('mode', resize.MODES)
@pytest.mark.parametrize('scale', [0.15625, 0.3125, 0.71875, 1.0, 1.28125, 1.5])
def test_a_scale_is_that_of_pytorch(mode, scale):
  after = int(SIDE * scale)
  step = np.float32(1 / scale)
  out = ours(IMAGE, resize.MODES.index(mode), (SIDE, SIDE), (after, after), (step, step))
  check(np.asarray(out), interpolated(IMAGE, scale_factor=scale, mode=mode))


@pytest.mark.parametrize('mode', resize.MODES)
@pytest.mark.parametrize(
  ('before', 'after'),
  [((48, 37), (13, 9)), ((20, 33), (64, 71)), ((7, 8), (7, 8)), ((5, 48), (1, 3))],
)
def test_a_size_is_that_of_pytorch_also_on_a_part_of_the_canvas(mode, before, after):
  image = IMAGE.copy()
  image[:, before[0] :] = image[:, :, before[1] :] = 7  # What is outside must not enter.
  steps = tuple(np.float32(old / new) for old, new in zip(before, after, strict=True))
  out = np.asarray(ours(image, resize.MODES.index(mode), before, after, steps))
  check(out, interpolated(image[:, : before[0], : before[1]], size=after, mode=mode))


def test_all_modes_and_sizes_are_one_program():
  traces = []

  @jax.jit
  def counted(*arguments):
    traces.append(1)
    return resize.resized(*arguments, (80, 80))

  for mode, side in ((0, 10), (1, 30), (2, 70)):
    step = np.float32(SIDE / side)
    counted(IMAGE, mode, (SIDE, SIDE), (side, side), (step, step))
  assert len(traces) == 1
