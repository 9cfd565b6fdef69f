"""Owns what of a source cannot be used: it is counted, listed in a file, and limited."""

import json
import logging
from numbers import Real
from pathlib import Path

import filelock

from cdd.core.errors import UserError
from cdd.core.words import quoted
from cdd.data.images import Unreadable

LEAST = 1000  # Draws, before the share of damaged ones is judged.
WARNED = 20  # Examples of which each is warned of, by a process.
KEPT = 10_000  # Reasons that a process remembers.


class TooSmall(Unreadable):
  """An example that is smaller than a crop of it; `size` is its (width, height) in pixels.

  It is left out as is what is damaged, but is not counted as such.
  """

  def __init__(self, width: int, height: int, crop: str):
    super().__init__(f'{width}x{height} pixels, smaller than a crop of {crop}')
    self.size = width, height


class Skips:
  """The examples of a source that are left out, as far as this process has seen.

  Attributes:
    reasons: name -> why; the first 10,000.
  """

  def __init__(self, label: str, most: float, known=()):
    """`most`: the share of damaged draws that is borne; `known`: name -> why, of what is known.

    Raises:
      UserError: `most` is no share.
    """
    check(most)
    self.reasons = {name: str(reason) for name, reason in dict(known).items()}
    self._small = {name for name, reason in dict(known).items() if isinstance(reason, TooSmall)}
    self._label, self._most = label, most
    self._listing = None
    self._drawn = self._damaged = self._warned = 0

  def list_in(self, path: Path) -> None:
    """Lists what is damaged in a file, the known ones at once; for `Listing`."""
    self._listing = Listing(path)
    for name, reason in self.reasons.items():
      if name not in self._small:
        self._listing.add(self._label, name, reason)

  def used(self) -> None:
    """Counts an example that was drawn and is sound."""
    self._drawn += 1

  def add(self, name: str, reason: str, small: bool) -> None:
    """Counts an example that was drawn and cannot be used, and says so.

    Args:
      small: it is only too small, which is no damage.

    Raises:
      UserError: more of what was drawn is damaged than is borne.
    """
    if len(self.reasons) < KEPT:
      self.reasons[name] = reason
    if self._warned < WARNED:
      logging.warning('Skipped %s of %s: %s.', quoted(name, 200), self._label, reason)
    elif self._warned == WARNED:
      logging.warning('Skipped %d of %s; more are not warned of.', WARNED + 1, self._label)
    self._warned += 1
    if self._listing is not None and not small:
      self._listing.add(self._label, name, reason)
    self.again(name, reason, small)

  def again(self, name: str, reason: str, small: bool) -> None:
    """Counts one that was added before; raises as `add`."""
    if small:
      return
    self._drawn += 1
    self._damaged += 1
    if over(self._damaged, self._drawn, self._most, LEAST):
      raise UserError(
        f'{self._damaged} of {self._drawn} examples drawn of {self._label} are damaged, more than '
        f'the share of {self._most:g} that max_skipped allows; {quoted(name)} is the last: '
        f'{reason}.'
      )


class Listing:
  """A file with a line of JSON for each damaged example, which several processes may add to."""

  def __init__(self, path: Path):
    self._path, self._seen, self._read = Path(path), set(), 0

  def add(self, source: str, name: str, reason: str) -> None:
    """Adds a line if there is none of this name; a disk that refuses it is warned of."""
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      with filelock.FileLock(self._path.with_name(f'.{self._path.name}.lock')):
        self._catch_up()
        if (source, name) not in self._seen:
          row = dict(source=source, name=name, reason=reason)
          with self._path.open('ab') as file:
            file.write((json.dumps(row) + '\n').encode())
    except OSError as error:
      logging.warning('%s cannot be written: %s.', self._path, error.strerror)

  def _catch_up(self) -> None:
    """Reads what was added since the last time."""
    if self._path.exists():
      with self._path.open('rb') as file:
        file.seek(self._read)
        added = file.read()
      self._read += len(added)
      rows = (json.loads(line) for line in added.splitlines() if line)
      self._seen |= {(row['source'], row['name']) for row in rows}


def check(most: float) -> None:
  """Checks the setting `max_skipped`.

  Raises:
    UserError: it is no share.
  """
  if not isinstance(most, Real) or isinstance(most, bool) or not 0 <= most <= 1:
    raise UserError(f'max_skipped is {most!r}; it must be a share, 0..1.')


def over(damaged: int, total: int, most: float, least: int) -> bool:
  """Whether a share is exceeded; of fewer than `least` in all, as if they were so many."""
  return damaged > most * max(total, least)
