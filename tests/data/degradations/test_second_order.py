"""The whole degradation: its order against PyTorch, and what holds for every draw of it."""

import sys

import jax
import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import torch_degradation as reference
from cdd.core.errors import UserError
from cdd.data import SOURCES
from cdd.data.degradations import DEGRADATIONS, recipes

torch.set_num_threads(1)
FACTOR, SIDE = 4, 64
KEYS = jax.random.split(jax.random.key(0), 6)

real_esrgan = sys.modules['cdd.data.degradations.real_esrgan']  # Its function has its name.


def photographs(count):
  source = SOURCES['photos'](('image',), split='test', size=SIDE)
  return np.stack([source[index]['image'] for index in range(count)])


@pytest.fixture(scope='module')
def images():
  return photographs(len(KEYS))


def compiled(name, traces=None, **settings):
  degrade = DEGRADATIONS[name](factor=FACTOR, **settings).on_device

  def run(image, key):
    if traces is not None:
      traces.append(1)
    return degrade(image, key)

  return jax.jit(run)


@pytest.fixture(scope='module')
def presets():
  """Each preset as one program, and how often it was traced."""
  counts = dict(real_esrgan=[], stable_sr=[])
  return {name: (compiled(name, traces), traces) for name, traces in counts.items()}


QUIET = dict(blur=0, enlarge=0, reduce=0, scale=(1, 1), gaussian=1, noise=(0, 0))


def test_without_noise_and_scales_it_is_the_chain_of_pytorch(images):
  first, second = (dict(QUIET, quality=(quality, quality)) for quality in (70.0, 55.0))
  settings = dict(final_sinc=0.0, rounded=False, basicsr_compat=True)
  degrade = compiled('real_esrgan', first=first, second=second, **settings)
  found = set()
  for image, key in zip(images, KEYS, strict=True):
    target, small = degrade(image, key)
    sharp = reference.sharpened(torch.tensor(image.transpose(2, 0, 1))[None])
    np.testing.assert_allclose(target, sharp[0].numpy().transpose(1, 2, 0), atol=1e-5)
    once = reference.compressed(sharp, torch.tensor([70.0]))
    gaps = {}
    for mode in reference.MODES:
      reduced = torch.nn.functional.interpolate(once, size=[SIDE // FACTOR] * 2, mode=mode)
      twice = reference.compressed(reduced.clamp(0, 1), torch.tensor([55.0]))[0].numpy()
      gaps[mode] = np.abs(np.asarray(small) - twice.transpose(1, 2, 0)).max()
    found.add(min(gaps, key=gaps.get))
    assert min(gaps.values()) < 1e-5, gaps
  assert len(found) > 1  # The modes are drawn.


def test_many_draws_are_distributed_as_those_of_pytorch():
  image, count = SOURCES['photos'](('image',), split='train', size=80)[3]['image'], 150
  settings = dict(basicsr_compat=True, sharpen=False)
  degrade = DEGRADATIONS['real_esrgan'](factor=FACTOR, **settings).on_device
  many = jax.jit(lambda keys: jax.lax.map(lambda key: degrade(image, key)[1], keys))
  ours = np.asarray(many(jax.random.split(jax.random.key(1), count)))
  recipe = recipes.REAL_ESRGAN._replace(**settings)
  rng, _ = np.random.default_rng(0), torch.manual_seed(0)
  batch = torch.tensor(image.transpose(2, 0, 1).copy())[None]
  theirs = [reference.degraded(batch, rng, recipe, FACTOR)[1] for _ in range(count)]
  theirs = torch.cat(theirs).numpy().transpose(0, 2, 3, 1)
  plain = image.reshape(20, 4, 20, 4, 3).mean((1, 3))
  for measure in (
    lambda out: ((out - plain) ** 2).mean((1, 2, 3)),
    lambda out: np.abs(np.diff(out, axis=1)).mean((1, 2, 3)),
    lambda out: (out - out.mean(-1, keepdims=True)).std((1, 2, 3)),
    lambda out: out.mean((1, 2, 3)),
  ):
    assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3


@pytest.mark.parametrize('name', ['real_esrgan', 'stable_sr'])
def test_all_draws_are_one_program_and_differ(name, presets, images):
  degrade, traces = presets[name]
  small = [np.asarray(degrade(images[0], key)[1]) for key in KEYS]
  assert len(traces) == 1
  again = np.asarray(degrade(images[0], KEYS[0])[1])
  assert np.array_equal(again, small[0])
  for index, one in enumerate(small):
    assert one.shape == (SIDE // FACTOR, SIDE // FACTOR, 3) and one.dtype == np.float32
    assert one.min() >= 0 and one.max() <= 1
    assert not any(np.array_equal(one, other) for other in small[:index])
  whole = np.abs(255 * small[0] - np.round(255 * small[0])).max() < 1e-3
  assert whole == (name == 'real_esrgan')  # StableSR does not round.


@pytest.mark.parametrize('name', ['real_esrgan', 'stable_sr'])
def test_extreme_images_stay_finite(name, presets):
  shape = (SIDE, SIDE, 3)
  pictures = [np.full(shape, value, np.float32) for value in (0.0, 0.3, 1.0)]
  pictures.append((np.indices(shape).sum(0) % 2).astype(np.float32))
  degrade, _ = presets[name]
  for picture in pictures:
    for key in KEYS:
      for out in degrade(picture, key):
        assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
  dark = [float(np.mean(degrade(pictures[0], key)[1])) for key in KEYS]
  light = [float(np.mean(degrade(pictures[2], key)[1])) for key in KEYS]
  assert max(dark) < 0.3 and min(light) > 0.5  # White without a second level is one photon.


def test_quality_100_gives_no_nan_and_what_is_not_to_be_sharpened_is_not(images):
  rounds = dict(quality=(100.0, 100.0))
  settings = dict(first=rounds, second=rounds, basicsr_compat=True, sharpen=False)
  degrade = compiled('stable_sr', **settings)
  for key in KEYS[:3]:
    target, small = degrade(images[0], key)
    assert np.isfinite(small).all() and np.array_equal(target, images[0])


def test_an_image_that_is_smaller_than_the_kernels_and_not_square_is_degraded():
  degrade = compiled('real_esrgan')
  target, small = degrade(photographs(1)[0][:16, :24], KEYS[0])
  assert target.shape == (16, 24, 3) and small.shape == (4, 6, 3) and np.isfinite(small).all()


def test_smaller_canvases_change_nothing_but_the_time(images, monkeypatch):
  quiet = dict(gaussian=1, noise=(0, 0))
  settings = dict(first=quiet, second=quiet, rounded=False)
  made = []
  for least in (SIDE, 0):
    monkeypatch.setattr(real_esrgan, 'SMALL', least)
    degrade = compiled('real_esrgan', **settings)
    made.append([degrade(images[0], key)[1] for key in KEYS])
  np.testing.assert_allclose(*made, atol=1e-5)
  scales = [
    real_esrgan.draw_scale(jax.random.split(key, 5)[1], recipes.REAL_ESRGAN.first) for key in KEYS
  ]
  assert {float(np.ceil(2 * scale)) for scale in scales} == {1, 2, 3}  # All canvases are used.


def test_scales_are_drawn_as_published():
  numbers = recipes.REAL_ESRGAN.first
  draw = jax.jit(jax.vmap(lambda key: real_esrgan.draw_scale(key, numbers)))
  scales = np.asarray(draw(jax.random.split(jax.random.key(5), 4000)))
  shares = [(scales > 1).mean(), (scales < 1).mean(), (scales == 1).mean()]
  np.testing.assert_allclose(shares, [0.2, 0.7, 0.1], atol=0.03)
  assert scales.min() >= 0.15 and scales.max() <= 1.5
  assert scales[scales > 1].mean() == pytest.approx(1.25, abs=0.02)
  assert scales[scales < 1].mean() == pytest.approx(0.575, abs=0.02)


def test_the_size_must_be_a_multiple_of_the_factor():
  for name in DEGRADATIONS:
    degrade = DEGRADATIONS[name](factor=3)
    run = degrade.on_device or degrade.on_host
    with pytest.raises(UserError, match=r'config.data.task.factor=3 does not divide 16x18 pixels'):
      run(np.zeros((16, 18, 3), np.float32), np.random.default_rng(0))


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(first=dict(quailty=(1, 2))), r"Unknown setting 'quailty' of first, .*'blur', 'sinc'"),
    (dict(first=dict(blur=1.5)), r'first.blur of the degradation is 1.5; .* a number in 0..1'),
    (dict(second=dict(quality=(0, 95))), r'second.quality .* \(0, 95\); .* in 1..100'),
    (dict(second=dict(quality=60)), r'second.quality of the degradation is 60; it must be a range'),
    (dict(first=dict(scale=(0.2, 0.9))), r'first.scale .* with 1 between them'),
    (dict(first=dict(noise=(5, 1))), r'first.noise of the degradation is \(5, 1\)'),
    (dict(first=dict(enlarge=0.6)), r'first.enlarge=0.6 and first.reduce=0.7; .* at most 1'),
    (dict(final_sinc=2.0), r'final_sinc of the degradation is 2.0'),
    (dict(intact=-0.1), r'intact of the degradation is -0.1'),
  ],
)
def test_a_setting_out_of_range_is_named(settings, message):
  with pytest.raises(UserError, match=message):
    DEGRADATIONS['real_esrgan'](factor=4, **settings)
