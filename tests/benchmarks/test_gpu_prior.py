"""The prior on one GPU: its chunks, its store on the device, its schedule and what it draws."""

import jax
import numpy as np
import pytest

from benchmarks import gpu_prior

SPEC = dict(name='scenes', size=16, start=7)


@pytest.fixture(autouse=True)
def short(monkeypatch):
  monkeypatch.setattr(gpu_prior, 'CHUNK', 4)


def test_a_chunk_holds_the_pictures_and_captions_of_its_own_numbers(tmp_path):
  for number in (1, 0):
    gpu_prior.render(number, folder=tmp_path, spec=SPEC)
  came = gpu_prior.chunks(tmp_path, 1)
  first, second, nothing = next(came), next(came), next(came)
  assert nothing is None
  source = gpu_prior.bind(gpu_prior.SOURCES, SPEC, 'source')()
  examples = [source[index] for index in range(8)]
  pictures = np.concatenate([first[0], second[0]])
  assert np.abs(pictures / 255 - [e['image'] for e in examples]).max() <= 0.51 / 255
  assert first[1] + second[1] == [e['caption'] for e in examples]


def test_a_store_takes_chunks_until_it_is_full():
  store = gpu_prior.Store(2, dict(image=jax.ShapeDtypeStruct((4, 3), np.int32)))
  parts = iter([(np.full((4, 3), value), []) for value in (1, 2, 3)] + [None])
  for filled in (4, 8, 8):
    gpu_prior.fill(store, parts, lambda images, captions: dict(image=images), 1)
    assert store.filled == filled
  np.testing.assert_array_equal(store.arrays['image'][:, 0], [1] * 4 + [2] * 4)


@pytest.mark.parametrize(('share', 'rate'), [(0, 1), (0.4, 1), (0.7, 0.5), (1, 0), (1.1, 0)])
def test_the_learning_rate_follows_the_clock_to_zero(share, rate):
  assert gpu_prior.tail(share, 0.4) == pytest.approx(rate)


def test_a_share_of_the_captions_is_dropped():
  batch = dict(image=np.ones((400, 1)), tokens=np.full((400, 3), 5))
  drawn = gpu_prior.as_latents(batch, jax.random.key(0), empty=np.array([1, 2, 2]), dropout=0.25)
  dropped = np.asarray(drawn['tokens'])[:, 0] == 1
  assert 70 < dropped.sum() < 130
  np.testing.assert_array_equal(drawn['tokens'][dropped], [[1, 2, 2]] * dropped.sum())
  assert (np.asarray(drawn['tokens'])[~dropped] == 5).all()
