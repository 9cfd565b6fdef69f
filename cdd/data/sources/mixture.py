"""Owns mixtures: a source that takes from several others."""

from collections.abc import Sequence

from cdd.core.registry import make


class Mixture:
  """Takes from several sources in turn."""

  def __init__(self, sources: Sequence):
    self._sources = list(sources)

  def __len__(self):
    return min(map(len, self._sources)) * len(self._sources)

  def __getitem__(self, index):
    item, which = divmod(int(index), len(self._sources))
    return self._sources[which][item]

  def __repr__(self):
    return f'Mixture({self._sources!r})'


def mixture(needs: Sequence[str] = ('image',), /, *, sources: Sequence):
  """Takes from the sources of these specs in turn."""
  from cdd.data.sources import SOURCES  # The table holds this function.

  return Mixture([make(SOURCES, spec, 'source', needs) for spec in sources])
