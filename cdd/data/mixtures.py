"""Owns sequences that take turns: sources that are mixed, and batches of several shapes."""

import math
from collections.abc import Sequence
from pathlib import Path

from cdd.data import transforms

ROUND = 1000  # Items after which rounded shares repeat.


class Mixture:
  """Takes from several sequences in turn, from each as often as its weight says in every round.

  No item is taken twice, and the next one of a sequence is always the one behind its last.
  """

  def __init__(self, parts: Sequence, shares: Sequence[int] | None = None):
    """`shares`: whole numbers without a common divisor; a round takes so many of each part."""
    self.parts = list(parts)
    self.shares = list(shares or [1] * len(self.parts))
    self._order = order(self.shares)
    seen, places = [0] * len(self.parts), []
    for which in self._order:
      places.append(seen[which])
      seen[which] += 1
    self._places = places

  def __len__(self):
    pairs = zip(self.parts, self.shares, strict=True)
    return min(len(part) // share for part, share in pairs) * len(self._order)

  def __getitem__(self, index):
    turn, place = divmod(int(index), len(self._order))
    which = self._order[place]
    return self.parts[which][turn * self.shares[which] + self._places[place]]

  @property
  def skipped(self) -> dict[str, str]:
    """Name -> why, of the examples of all parts that could not be used."""
    each = (getattr(part, 'skipped', {}) for part in self.parts)
    return {name: reason for reasons in each for name, reason in reasons.items()}

  def pictures(self, count: int) -> int:
    """Of how many different pictures the first `count` items are (`transforms.pictures`)."""
    turns, rest = divmod(count, len(self._order))
    drawn = [turns * share for share in self.shares]
    for which in self._order[:rest]:
      drawn[which] += 1
    return sum(transforms.pictures(*pair) for pair in zip(self.parts, drawn, strict=True))

  def list_skipped(self, path: Path) -> None:
    """Lists what is damaged of every part in a file (`skips.Listing`)."""
    for part in self.parts:
      if hasattr(part, 'list_skipped'):
        part.list_skipped(path)

  def __repr__(self):
    shares = '' if len(set(self.shares)) == 1 else f', shares={self.shares}'
    return f'Mixture({self.parts!r}{shares})'


def order(shares: Sequence[int]) -> list[int]:
  """Which source each example of a round is from.

  In every beginning of a round, a source of share s of n has less than one example more or fewer
  than s / n of it: each is due in a span of places, and the one whose span ends first is taken
  (Tijdeman, 1980, The chairman assignment problem).
  """
  total, taken, turns = sum(shares), [0] * len(shares), []
  for place in range(1, total + 1):
    due = [n for n, share in enumerate(shares) if taken[n] * total < place * share]
    which = min(due, key=lambda n: -(-(taken[n] + 1) * total // shares[n]))
    taken[which] += 1
    turns.append(which)
  return turns


def rounded(counts: Sequence[int], most: int = ROUND) -> list[int]:
  """Whole numbers of about the ratios of some counts, each at least 1, of a sum of about `most`."""
  scale = min(1.0, most / sum(counts))
  shares = [max(1, round(count * scale)) for count in counts]
  return [share // math.gcd(*shares) for share in shares]


def divided(count: int, shares: Sequence[int]) -> list[int]:
  """How many of `count` items fall to each share; they sum to `count`."""
  bounds = [count * sum(shares[:n]) // sum(shares) for n in range(len(shares) + 1)]
  return [end - start for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
