import numpy as np
import pytest
import scipy.linalg
from PIL import Image, ImageFilter
from scipy.signal import convolve2d

from cdd.core.errors import UserError
from cdd.data.sources import photos
from cdd.metrics import chosen, lpips
from cdd.metrics.frechet import accumulate, features, frechet
from cdd.metrics.psnr import psnr
from cdd.metrics.ssim import ssim
from cdd.runs.evaluate import evaluate

RNG = np.random.default_rng(0)


def test_psnr_of_a_known_error():
  a = np.full((2, 16, 16, 3), 0.5)
  np.testing.assert_allclose(psnr(a + 0.1, a), 20.0, atol=1e-4)


def test_ssim_equals_a_direct_convolution():
  a, b = RNG.uniform(size=(2, 20, 24))
  taps = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
  window = np.outer(taps, taps) / np.outer(taps, taps).sum()
  mean = lambda x: convolve2d(x, window, 'valid')
  covariance = lambda x, y: mean(x * y) - mean(x) * mean(y)
  top = (2 * mean(a) * mean(b) + 1e-4) * (2 * covariance(a, b) + 9e-4)
  low = (mean(a) ** 2 + mean(b) ** 2 + 1e-4) * (covariance(a, a) + covariance(b, b) + 9e-4)
  stack = lambda x: np.repeat(x[None, :, :, None], 3, axis=-1)
  np.testing.assert_allclose(ssim(stack(a), stack(b)), (top / low).mean(), rtol=1e-8)
  np.testing.assert_allclose(ssim(stack(a), stack(a)), 1.0)


def test_the_frechet_distance_equals_scipys_matrix_square_root():
  a, b = RNG.normal(size=(200, 12)), RNG.normal(size=(150, 12)) @ RNG.normal(size=(12, 12)) + 1
  cov_a, cov_b = np.cov(a.T), np.cov(b.T)
  root = scipy.linalg.sqrtm(cov_a @ cov_b).real
  expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
  moments = accumulate(accumulate(None, a[:70]), a[70:])
  assert frechet(moments, accumulate(None, b)) == pytest.approx(expected, rel=1e-8)
  assert frechet(moments, moments) == pytest.approx(0, abs=1e-8)


def damaged(images, damage):
  pictures = [Image.fromarray((255 * image).astype(np.uint8)) for image in images]
  return np.stack([np.asarray(damage(p), np.float32) / 255 for p in pictures])


def test_the_stand_in_features_rank_degradations_of_photographs():
  source = photos(split='train', size=64)
  crops = np.stack([source[i]['image'] for i in range(256)])
  weights = lpips.load()
  real = accumulate(None, features(weights, crops[:128]))
  distance = lambda images: frechet(accumulate(None, features(weights, images)), real)
  other = crops[128:]

  def smaller(factor):
    return lambda p: p.resize((64 // factor,) * 2, Image.BOX).resize((64, 64), Image.BICUBIC)

  noisy = lambda std: np.clip(other + std * RNG.normal(size=other.shape), 0, 1).astype(np.float32)
  blur = [distance(damaged(other, smaller(k))) for k in (2, 4, 8)]
  noise = [distance(noisy(std)) for std in (0.05, 0.1, 0.2)]
  average = distance(damaged(other, lambda p: p.filter(ImageFilter.GaussianBlur(8))))
  clean = distance(other)
  print(f'clean {clean:.1f}, reduced {blur}, noise {noise}, averaged {average:.1f}')
  assert clean < blur[0] < blur[1] < blur[2] < average
  assert clean < noise[0] < noise[1] < noise[2]


def batches(count):
  make = lambda: RNG.uniform(size=(4, 64, 64, 3)).astype(np.float32)
  return [dict(image=make()) for _ in range(count)]


def test_a_perfect_sampler_is_perfect_and_the_row_is_complete():
  row, images = evaluate(lambda batch, number: batch['image'], batches(2), chosen(), first=6)
  assert row['lpips'] == 0 and row['ssim'] == pytest.approx(1) and row['count'] == 8
  assert row['frechet'] == pytest.approx(0, abs=1e-6)
  assert row['seconds_per_image'] > 0 and images.shape == (6, 64, 64, 3)


def test_samples_that_are_not_finite_name_their_batch():
  def sample(batch, number):
    return batch['image'] * (np.nan if number == 1 else 1)

  with pytest.raises(UserError, match='batch 1'):
    evaluate(sample, batches(2), chosen())


def test_images_that_are_too_small_for_lpips_are_named():
  small = np.zeros((1, 16, 24, 3), np.float32)
  with pytest.raises(
    UserError, match='LPIPS needs images of 32 x 32 pixels or more, not of 16 x 24'
  ):
    lpips.of_images(small, small)
