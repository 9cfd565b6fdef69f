"""Mixtures of sources in fixed shares."""

import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from cdd.core.errors import UserError
from cdd.data import sources
from cdd.data.mixtures import Mixture
from cdd.data.sources.mixture import whole


class Numbers:
  """A source of (its name, the index)."""

  def __init__(self, name, length):
    self.name, self.length = name, length

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    assert 0 <= index < self.length
    return self.name, index


def mixed(shares, lengths):
  parts = [Numbers(name, length) for name, length in zip('abcd', lengths, strict=False)]
  return Mixture(parts, shares)


@pytest.mark.parametrize(
  'shares', [[3, 1], [1, 1], [7, 3], [1, 2, 4], [5, 1, 1, 1], [1], [99, 1], [18, 1, 1, 1]]
)
def test_every_beginning_has_the_shares_within_one_example_and_no_item_twice(shares):
  source = mixed(shares, [40 * share for share in shares])
  assert len(source) == 40 * sum(shares)
  taken = [source[index] for index in range(len(source))]
  assert len({*taken}) == len(taken)
  total, seen = sum(shares), Counter()
  for count, (name, item) in enumerate(taken, 1):
    assert item == seen[name]  # In the order of the source.
    seen[name] += 1
    if count <= 3 * total:
      for each, share in zip('abcd', shares, strict=False):
        assert abs(seen[each] - Fraction(count * share, total)) < 1


def test_equal_weights_take_in_turn_as_without_weights():
  specs = [dict(name='scenes', size=8, start=start, length=3) for start in (0, 50, 90)]
  plain = sources.mixture(sources=specs)
  for weights in ((1, 1, 1), (0.2, 0.2, 0.2), [4, 4, 4]):
    weighted = sources.mixture(sources=specs, weights=weights)
    assert len(weighted) == len(plain) == 9
    for index in range(9):
      np.testing.assert_array_equal(weighted[index]['image'], plain[index]['image'])
      expected = sources.scenes(size=8, start=specs[index % 3]['start'])[index // 3]
      np.testing.assert_array_equal(plain[index]['image'], expected['image'])


def test_a_source_that_is_short_ends_the_mixture_with_a_whole_round():
  source = mixed([3, 1], [10, 100])
  assert len(source) == 12 and source[10] == ('a', 8) and source[11] == ('b', 2)
  assert Counter(name for name, _ in map(source.__getitem__, range(12))) == dict(a=9, b=3)


@pytest.mark.parametrize(
  'weights, shares',
  [
    ((3, 1), [3, 1]),
    ((0.7, 0.3), [7, 3]),
    ((6, 2), [3, 1]),
    ((0.125, 1), [1, 8]),
    ((1e-3, 1), [1, 1000]),
  ],
)
def test_weights_are_any_positive_numbers(weights, shares):
  assert whole(weights, 2) == shares


@pytest.mark.parametrize(
  'weights', [(1,), (1, 1, 1), (1, 0), (1, -1), (1, True), (1, 'a'), (1, float('nan'))]
)
def test_weights_that_are_no_positive_numbers_for_each_source_are_named(weights):
  with pytest.raises(UserError, match='weights of a mixture are .* must be 2 positive numbers'):
    whole(weights, 2)


def test_weights_of_too_many_digits_and_a_mixture_of_nothing_are_named():
  with pytest.raises(UserError, match='with fewer digits'):
    whole((0.12345678, 1), 2)
  with pytest.raises(UserError, match='needs sources'):
    sources.mixture(sources=[])


def test_a_mixture_can_be_sent_and_says_its_shares():
  source = mixed([3, 1], [9, 9])
  again = pickle.loads(pickle.dumps(source))
  assert [again[i] for i in range(8)] == [source[i] for i in range(8)]
  specs = [dict(name='scenes', size=8, length=9)] * 2
  assert 'shares=[3, 1]' in repr(sources.mixture(sources=specs, weights=(3, 1)))
