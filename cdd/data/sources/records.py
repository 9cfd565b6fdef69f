"""Owns what the sources of records share: which files they are, and crops of what is in them."""

import posixpath
import re
from collections.abc import Sequence
from typing import NamedTuple

from cdd.core import places
from cdd.core.errors import UserError
from cdd.core.words import quoted
from cdd.data import images, transforms
from cdd.data.sources.fields import suffix


class Part(NamedTuple):
  """A file of records; its stamp is another when it has been written again."""

  path: str
  stamp: str

  @property
  def name(self) -> str:
    return posixpath.basename(self.path)

  @property
  def folder(self) -> str:
    return posixpath.dirname(self.path) or '.'


def parts(path, suffixes: Sequence[str]) -> list[Part]:
  """The files of the setting `path`, sorted; of several, those of each in turn.

  Args:
    path: a file, a folder, a pattern with *, ?, [...] or {00..12}, or several of these.
    suffixes: of the files of a folder that are read.

  Raises:
    UserError: there are none, or one cannot be read.
  """
  given = path if isinstance(path, list | tuple) else [path]
  found = []
  for each in map(str, given):
    files = [name for pattern in spelled_out(each) for name in _of(pattern, suffixes)]
    if not files:
      raise UserError(
        f'There is no file {quoted(each, 200)!r}; set data.source.path to files or a folder of '
        f'files ending in one of {[*suffixes]}.'
      )
    found += files
  try:
    return [Part(name, places.stamp(name)) for name in dict.fromkeys(found)]
  except OSError as error:
    raise UserError(f'{quoted(error.filename)} cannot be read: {images.reason(error)}.') from error


def _of(pattern: str, suffixes: Sequence[str]) -> list[str]:
  if not places.is_folder(pattern):
    return places.matching(pattern)
  names = [name for name in places.files(pattern) if suffix(name) in suffixes]
  return [str(places.joined(pattern, name)) for name in names]


def spelled_out(pattern: str) -> list[str]:
  """'a{08..10}' -> ['a08', 'a09', 'a10'], and 'a{b,c}' -> ['ab', 'ac']."""
  found = re.search(r'\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}', pattern)
  if found is None:
    return [pattern]
  first, last, choices = found.groups()
  if choices is None:
    choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
  else:
    choices = choices.split(',')
  before, after = pattern[: found.start()], pattern[found.end() :]
  return [whole for each in choices for whole in spelled_out(f'{before}{each}{after}')]


def crops(
  examples: Sequence[transforms.Whole], name: str, *, size, seed, length, flip, max_skipped
) -> transforms.RandomCrops:
  """Random crops of records, each read when it is drawn.

  Raises:
    UserError: there are none, or a setting is out of range.
  """
  transforms.check(size=size, seed=seed, length=length)
  if not len(examples):
    raise UserError(f'{name} has no records.')
  label = f'{name} (size={size}, seed={seed})'
  return transforms.RandomCrops(
    examples, size=size, seed=seed, length=length, label=label, flip=flip, max_skipped=max_skipped
  )


def called(source: str, parts: Sequence[Part]) -> str:
  """What messages call a source of some files."""
  more = f' and {len(parts) - 1} more' if len(parts) > 1 else ''
  return f'{source}({quoted(parts[0].name)!r}{more})'


def missing(package: str, extra: str, what: str) -> UserError:
  """The error of a package that is not installed."""
  return UserError(f"{what} needs the package {package}: pip install 'cdd-jax[{extra}]'.")
