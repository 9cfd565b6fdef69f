"""The network that reads depth back from images: of scenes that it was not trained on."""

import numpy as np
import torch

from cdd.data.scenes import Scenes
from cdd.data.tasks.depth import depth as task
from cdd.metrics import depth

SCENES, COUNT = Scenes(size=64, start=70_000_000), 48


def pairs():
  drawn = [task().draw(SCENES[index], None) for index in range(COUNT)]
  return tuple(np.stack([each[name] for each in drawn]) for name in ('image', 'condition'))


def test_the_depth_of_new_scenes_is_read_much_better_than_that_of_others_fits():
  images, condition = pairs()
  own, others = depth.error(images, condition), depth.error(images, np.roll(condition, 1, 0))
  assert own.shape == (COUNT,) and own.mean() < 0.4 * others.mean()
  assert (own < others).mean() > 0.9


def test_what_is_read_hardly_changes_with_a_little_noise():
  images, condition = pairs()
  noisy = np.clip(images + np.random.default_rng(0).normal(0, 0.02, images.shape), 0, 1)
  noisy = noisy.astype(np.float32)
  assert depth.error(noisy, condition).mean() < 1.3 * depth.error(images, condition).mean()


def test_what_is_stored_is_nearest_of_255_levels():
  rng = np.random.default_rng(0)
  params = {name: rng.normal(size=shape) for name, shape in depth.shapes().items()}
  back = depth.unpacked(depth.packed(params))
  for name, leaf in params.items():
    assert np.abs(back[name] - leaf).max() <= 0.501 * np.abs(leaf).max() / 127


def test_the_network_equals_pytorchs():
  images, params = pairs()[0][:2], depth.load()
  assert {name: leaf.shape for name, leaf in params.items()} == depth.shapes()

  def conv(name, x, stride=1):
    weight = torch.tensor(params[f'{name}.weight'].transpose(3, 2, 0, 1))
    if stride == 2:  # XLA's SAME pads an even side after it alone.
      x = torch.nn.functional.pad(x, (0, 1, 0, 1))
    bias = torch.tensor(params[f'{name}.bias'])
    return torch.nn.functional.conv2d(x, weight, bias, stride, 0 if stride == 2 else 1)

  x, skips = torch.tensor(2 * images - 1).permute(0, 3, 1, 2), []
  for level in range(4):
    x = torch.relu(conv(f'down{level}.0', x, 2 if level else 1))
    x = torch.relu(conv(f'down{level}.1', x))
    skips.append(x)
  for level in (2, 1, 0):
    x = torch.nn.functional.interpolate(x, scale_factor=2)
    x = torch.relu(conv(f'up{level}', torch.cat([x, skips[level]], 1)))
  expected = torch.sigmoid(conv('out', x))[:, 0].numpy()
  np.testing.assert_allclose(depth.read(params, images), expected, atol=1e-4)
