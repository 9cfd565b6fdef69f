"""Real-ESRGAN's degradation in PyTorch and NumPy, the way it is published, as a reference.

Kernels are made on the host, one by one; blurs are grouped convolutions; a batch shares the scales,
the modes, the kinds of noise and the order of the last stages. Images are [b, 3, H, W] in [0, 1].
"""

import numpy as np
import torch
from scipy import special
from torch.nn import functional as F

from cdd.data.degradations import jpeg
from cdd.data.degradations.recipes import Recipe, Round

PI, MODES = np.pi, ('area', 'bilinear', 'bicubic')
FAMILIES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)


def padded(kernel: np.ndarray) -> np.ndarray:
  """A kernel with a sum of 1 on 21 x 21 weights, float32."""
  return np.pad(kernel / kernel.sum(), (21 - len(kernel)) // 2).astype(np.float32)


def bivariate(size: int, sigma_x, sigma_y, angle, beta, plateau: bool) -> np.ndarray:
  """A kernel by its covariance, float64 until it is done."""
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  precision = np.linalg.inv(turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T)
  y, x = np.mgrid[-(size // 2) : size // 2 + 1, -(size // 2) : size // 2 + 1]
  points = np.stack([x, y], -1)
  q = np.einsum('yxi,ij,yxj->yx', points, precision, points) ** beta
  return padded(1 / (1 + q) if plateau else np.exp(-0.5 * q))


def sinc(size: int, cutoff: float) -> np.ndarray:
  """The circular low-pass filter, by SciPy's J1."""
  y, x = np.mgrid[:size, :size] - (size - 1) / 2
  radius = np.hypot(x, y)
  with np.errstate(invalid='ignore', divide='ignore'):
    values = cutoff * special.j1(cutoff * radius) / (2 * PI * radius)
  values[size // 2, size // 2] = cutoff**2 / (4 * PI)
  return padded(values)


def draw_kernel(rng: np.random.Generator, numbers: Round) -> np.ndarray:
  size = int(rng.choice(range(7, 22, 2)))
  if rng.random() < numbers.sinc:
    return sinc(size, rng.uniform(PI / 3 if size < 13 else PI / 5, PI))
  family = int(rng.choice(6, p=FAMILIES))
  sigma_x = rng.uniform(*numbers.sigma)
  sigma_y, angle = (
    (rng.uniform(*numbers.sigma), rng.uniform(-PI, PI)) if family % 2 else (sigma_x, 0)
  )
  bounds = {0: (1, 1), 1: numbers.generalized, 2: numbers.plateau}[family // 2]
  beta = rng.uniform(bounds[0], 1) if rng.random() < 0.5 else rng.uniform(1, bounds[1])
  return bivariate(size, sigma_x, sigma_y, angle, beta, family // 2 == 2)


def filter2d(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
  """Each image [b, 3, H, W] with its own kernel [b, k, k]."""
  count, channels, height, width = images.shape
  reach = kernels.shape[-1] // 2
  images = F.pad(images, (reach,) * 4, mode='reflect')
  weights = kernels.repeat_interleave(channels, 0)[:, None]
  out = F.conv2d(images.flatten(0, 1)[None], weights, groups=count * channels)
  return out.view(count, channels, height, width)


def sharpened(images: torch.Tensor) -> torch.Tensor:
  """Unsharp masking with one filter of 51 x 51 weights."""
  line = torch.exp(-0.5 * (torch.arange(-25.0, 26.0) / 8) ** 2)
  kernel = torch.outer(line, line)
  kernel = (kernel / kernel.sum()).expand(len(images), 51, 51)
  difference = images - filter2d(images, kernel)
  soft = filter2d((difference.abs() * 255 > 10).float(), kernel)
  sharp = (images + 0.5 * difference).clamp(0, 1)
  return soft * sharp + (1 - soft) * images


def gaussian(images, sigma, grey):
  """`sigma` of 255 and `grey`, [b]."""
  sigma, grey = (value.view(-1, 1, 1, 1) for value in (sigma / 255, grey.float()))
  colour = torch.randn_like(images)
  if grey.any():
    colour = colour * (1 - grey) + torch.randn(images.shape[2:]) * grey
  return (images + colour * sigma).clamp(0, 1)


def photons(images: torch.Tensor) -> torch.Tensor:
  """Poisson noise of images of eight bits, one after another for their numbers of levels."""
  images = (images * 255).round().clamp(0, 255) / 255
  white = [2.0 ** np.ceil(np.log2(len(torch.unique(one)))) for one in images]
  white = torch.tensor(white, dtype=torch.float32).view(-1, 1, 1, 1)
  return torch.poisson(images * white) / white - images


def poisson(images, scale, grey):
  scale, grey = (value.view(-1, 1, 1, 1) for value in (scale, grey.float()))
  noise = photons(images)
  if grey.any():
    shades = torch.tensordot(images, torch.tensor([0.2989, 0.587, 0.114]), ([1], [0]))[:, None]
    noise = noise * (1 - grey) + photons(shades) * grey
  return (images + noise * scale).clamp(0, 1)


def _waves() -> torch.Tensor:
  line = torch.arange(8.0)
  cosines = torch.cos((2 * line[:, None] + 1) * line * PI / 16)
  scale = torch.where(line == 0, 0.5**0.5, 1.0) / 2
  return torch.einsum('iu,jv->ijuv', cosines * scale, cosines * scale)


WAVES = _waves()
TO_YCBCR, TO_RGB = torch.tensor(jpeg.TO_YCBCR), torch.tensor(jpeg.TO_RGB)


def quantised(planes: torch.Tensor, table: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
  """Planes [b, H, W] in 0..255, a table [8, 8] and its factors [b]."""
  count, height, width = planes.shape
  blocks = planes.view(count, height // 8, 8, width // 8, 8).transpose(2, 3) - 128
  steps = table * factor.view(-1, 1, 1, 1, 1)
  waves = (torch.tensordot(blocks, WAVES, 2) / steps).round() * steps
  blocks = torch.tensordot(waves, WAVES, ([3, 4], [2, 3])) + 128
  return blocks.transpose(2, 3).reshape(count, height, width)


def compressed(images: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
  """JPEG with BasicSR's tables, which are not rounded and of which that of luma is transposed."""
  height, width = images.shape[2:]
  images = F.pad(images, (0, -width % 16, 0, -height % 16)) * 255
  factor = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
  luma, *chroma = torch.einsum('dc,bchw->dbhw', TO_YCBCR, images)
  planes = [quantised(luma, torch.tensor(jpeg.LUMA.T.copy()), factor)]
  for plane in chroma:
    half = F.avg_pool2d(plane[:, None] + 128, 2)[:, 0]
    half = quantised(half, torch.tensor(jpeg.CHROMA), factor) - 128
    planes.append(half.repeat_interleave(2, 1).repeat_interleave(2, 2))
  images = torch.einsum('dc,cbhw->bdhw', TO_RGB, torch.stack(planes))
  return images.clamp(0, 255)[:, :, :height, :width] / 255


def noisy(images, rng: np.random.Generator, numbers: Round):
  draw = lambda bounds: torch.empty(len(images)).uniform_(*bounds)
  grey = torch.rand(len(images)) < numbers.grey
  if rng.random() < numbers.gaussian:
    return gaussian(images, draw(numbers.noise), grey)
  return poisson(images, draw(numbers.poisson), grey)


def scale_of(rng: np.random.Generator, numbers: Round) -> float:
  low, high = numbers.scale
  share = rng.random()
  if share < numbers.enlarge:
    return rng.uniform(1, high)
  return rng.uniform(low, 1) if share < numbers.enlarge + numbers.reduce else 1.0


def degraded(images: torch.Tensor, rng: np.random.Generator, recipe: Recipe, factor: int):
  """(the sharp images, the degraded ones)."""
  count, _, height, width = images.shape
  mode = lambda: str(rng.choice(MODES))
  kernels = lambda numbers: torch.tensor(np.stack([draw_kernel(rng, numbers) for _ in images]))
  quality = lambda numbers: torch.empty(count).uniform_(*numbers.quality)
  target = sharpened(images) if recipe.sharpen else images
  x = filter2d(target, kernels(recipe.first))
  x = F.interpolate(x, scale_factor=scale_of(rng, recipe.first), mode=mode())
  x = compressed(noisy(x, rng, recipe.first), quality(recipe.first))
  second = kernels(recipe.second)
  x = filter2d(x, second) if rng.random() < recipe.second.blur else x
  scale, small = scale_of(rng, recipe.second), (height // factor, width // factor)
  x = F.interpolate(x, size=[int(side * scale) for side in small], mode=mode())
  x = noisy(x, rng, recipe.second)
  last = [
    sinc(int(rng.choice(range(7, 22, 2))), rng.uniform(PI / 3, PI))
    if rng.random() < recipe.final_sinc
    else padded(np.ones((1, 1)))
    for _ in images
  ]
  last = torch.tensor(np.stack(last))
  reduced = lambda x: filter2d(F.interpolate(x, size=small, mode=mode()), last)
  if rng.random() < 0.5:
    x = compressed(reduced(x).clamp(0, 1), quality(recipe.second))
  else:
    x = reduced(compressed(x.clamp(0, 1), quality(recipe.second)))
  x = x.clamp(0, 1)
  return target, (x * 255).round() / 255 if recipe.rounded else x
