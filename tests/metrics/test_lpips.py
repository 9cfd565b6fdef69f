import sys
import types

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from cdd import assets
from cdd.assets import PHOTOS
from cdd.metrics import lpips


@pytest.fixture(scope='module')
def reference():
  """The lpips package's own network and forward, on our weights; torchvision is not needed."""

  def alexnet(**_):
    conv, relu, pool = torch.nn.Conv2d, torch.nn.ReLU, torch.nn.MaxPool2d
    layers = [conv(3, 64, 11, 4, 2), relu(), pool(3, 2), conv(64, 192, 5, 1, 2), relu(), pool(3, 2)]
    layers += [conv(192, 384, 3, 1, 1), relu(), conv(384, 256, 3, 1, 1), relu()]
    layers += [conv(256, 256, 3, 1, 1), relu(), pool(3, 2)]
    return types.SimpleNamespace(features=torch.nn.Sequential(*layers))

  stub, models = types.ModuleType('torchvision'), types.ModuleType('torchvision.models')
  models.alexnet, stub.models = alexnet, models
  saved = {name: sys.modules.get(name) for name in ('torchvision', 'torchvision.models')}
  sys.modules.update({'torchvision': stub, 'torchvision.models': models})
  try:
    import lpips as package

    net = package.LPIPS(net='alex', verbose=False)  # Its own heads, from its own files.
  finally:
    for name, module in saved.items():
      sys.modules.pop(name) if module is None else sys.modules.update({name: module})
  ours = lpips.load()
  state = net.state_dict()
  for index in range(1, 6):
    for key in [k for k in state if k.startswith(f'net.slice{index}.')]:
      _, _, layer, leaf = key.split('.')
      array = np.asarray(ours[f'features.{layer}.{leaf}'])
      array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
      state[key] = torch.tensor(array.copy())
  net.load_state_dict(state)
  return net.eval()


# Of the same pairs by the weights as published, in float32.
PUBLISHED = {
  64: [0.27619505, 0.33796787, 0.16955054, 0.7309809, 0.61083573, 0.5620272],
  97: [0.35057145, 0.5151237, 0.20249546, 0.8156304, 0.68301916, 0.6532085],
}


def photos(count, size):
  files = sorted(PHOTOS.glob('*.jpg'))[:count]
  crops = [np.asarray(Image.open(f).resize((size, size)), np.float32) / 255 for f in files]
  return np.stack(crops)


@pytest.mark.parametrize('size', [64, 97])
def test_lpips_equals_the_reference_package_on_photographs(reference, size):
  a = photos(6, size)
  rng = np.random.default_rng(0)
  b = np.clip(a + rng.normal(size=a.shape) * 0.1, 0, 1).astype(np.float32)
  b[3:] = a[::-1][3:]
  with torch.no_grad():
    to = lambda x: torch.tensor(x.transpose(0, 3, 1, 2)) * 2 - 1
    expected = reference(to(a), to(b)).numpy().ravel()
  got = lpips.lpips(lpips.load(), a, b)
  assert np.abs(got - expected).max() < 1e-5
  # What rounding the trunk to float16 changes is less than any table shows.
  assert np.abs(got - np.array(PUBLISHED[size])).max() < 1e-4


def test_the_heads_have_the_published_sums():
  weights = lpips.load()
  sums = [float(weights[f'lin{index}.model.1.weight'].sum()) for index in range(5)]
  np.testing.assert_allclose(sums, [2.3495, 16.143, 39.2684, 27.1972, 20.3172], rtol=1e-4)


def test_equal_images_are_at_distance_zero_with_a_finite_gradient():
  a = photos(2, 64)
  weights = lpips.load()
  assert float(lpips.lpips(weights, a, a).max()) == 0.0
  flat = np.zeros_like(a)
  grad = jax.grad(lambda x: lpips.lpips(weights, x, flat).sum())(flat)
  assert np.isfinite(grad).all()


def test_the_trunk_ships_as_float16_and_the_heads_as_float32():
  stored = {name: leaf.dtype for name, leaf in load_file(assets.LPIPS).items()}
  trunk = {name for name in stored if name.startswith('features.')}
  assert {stored[name] for name in trunk} == {np.dtype('float16')} and len(trunk) == 10
  assert {stored[name] for name in stored.keys() - trunk} == {np.dtype('float32')}
  assert {leaf.dtype for leaf in lpips.load().values()} == {np.dtype('float32')}
