"""Owns mixtures: a source that takes from several others, in fixed shares."""

import math
from collections.abc import Sequence
from fractions import Fraction
from numbers import Real

from cdd.core.errors import UserError
from cdd.core.registry import make
from cdd.data.buckets import Buckets
from cdd.data.mixtures import Mixture
from cdd.data.prepared import Prepared

LONGEST = 10_000  # Examples of a round, after which the order of the sources repeats.


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
  if any(isinstance(source, Buckets) for source in made):
    raise UserError('The sources of a mixture have one size each; list several in a folder alone.')
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
