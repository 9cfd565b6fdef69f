"""Owns mixtures: a source that takes from several others, in fixed shares."""

import math
from collections.abc import Sequence
from fractions import Fraction
from numbers import Real
from pathlib import Path

from cdd.core.errors import UserError
from cdd.core.registry import make
from cdd.data.prepared import Prepared

LONGEST = 10_000  # Examples of a round, after which the order of the sources repeats.


class Mixture:
  """Takes from several sources in turn, from each as often as its weight says in every round.

  No item is taken twice, and the next one of a source is always the one behind its last.
  """

  def __init__(self, sources: Sequence, shares: Sequence[int] | None = None):
    """`shares`: whole numbers without a common divisor; a round takes so many of each source."""
    self._sources = list(sources)
    self._shares = list(shares or [1] * len(self._sources))
    self._order = order(self._shares)
    seen, places = [0] * len(self._sources), []
    for which in self._order:
      places.append(seen[which])
      seen[which] += 1
    self._places = places

  def __len__(self):
    pairs = zip(self._sources, self._shares, strict=True)
    return min(len(source) // share for source, share in pairs) * len(self._order)

  def __getitem__(self, index):
    turn, place = divmod(int(index), len(self._order))
    which = self._order[place]
    return self._sources[which][turn * self._shares[which] + self._places[place]]

  @property
  def skipped(self) -> dict[str, str]:
    """Name -> why, of the examples of all sources that could not be used."""
    each = (getattr(source, 'skipped', {}) for source in self._sources)
    return {name: reason for reasons in each for name, reason in reasons.items()}

  def list_skipped(self, path: Path) -> None:
    """Lists what is damaged of every source in a file (`skips.Listing`)."""
    for source in self._sources:
      if hasattr(source, 'list_skipped'):
        source.list_skipped(path)

  def __repr__(self):
    shares = '' if len(set(self._shares)) == 1 else f', shares={self._shares}'
    return f'Mixture({self._sources!r}{shares})'


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


def mixture(
  needs: Sequence[str] = ('image',),
  /,
  *,
  sources: Sequence,
  weights: Sequence | None = None,
):
  """Takes from the sources of these specs in turn.

  Args:
    weights: how often each is taken, as (3, 1) or (0.7, 0.3); None for all alike. Of the longer
      sources, what is beyond their shares is left out.

  Raises:
    UserError: a source is refused, or the weights are not one positive number for each.
  """
  from cdd.data.sources import SOURCES  # The table holds this function.

  shares = whole(weights, len(sources))
  made = [make(SOURCES, spec, 'source', needs) for spec in sources]
  if any(isinstance(source, Prepared) for source in made):
    raise UserError('Prepared examples cannot be mixed; prepare the mixture.')
  return Mixture(made, shares)


def whole(weights: Sequence | None, count: int) -> list[int]:
  """Weights as whole numbers of the same ratios, without a common divisor.

  Raises:
    UserError: they are not one positive number for each source, or spell too long a round.
  """
  if not count:
    raise UserError('A mixture needs sources; data.source.sources is empty.')
  if weights is None:
    return [1] * count
  sound = [
    isinstance(w, Real) and not isinstance(w, bool) and math.isfinite(w) and w > 0 for w in weights
  ]
  if len(weights) != count or not all(sound):
    raise UserError(
      f'The weights of a mixture are {weights!r}; they must be {count} positive numbers, one for '
      'each source.'
    )
  parts = [Fraction(str(weight)) for weight in weights]
  scale = math.lcm(*[part.denominator for part in parts])
  shares = [int(part * scale) for part in parts]
  shares = [share // math.gcd(*shares) for share in shares]
  if sum(shares) > LONGEST:
    raise UserError(
      f'The weights of a mixture are {weights!r}; with fewer digits, their order repeats after at '
      f'most {LONGEST} examples, and not after {sum(shares)}.'
    )
  return shares
