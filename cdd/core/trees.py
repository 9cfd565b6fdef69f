"""Owns selection by path: flat trees {path: leaf}, regular expressions, first match wins."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cdd.core.errors import UserError
from cdd.core.registry import choose


def match(patterns: Sequence[tuple[str, Any]], paths) -> dict[str, Any]:
  """Maps every path to the value of the first pattern that matches all of it.

  Args:
    patterns: (regular expression, value) pairs, tried in order.
    paths: an iterable of paths, such as a flat tree.

  Raises:
    UserError: names the paths that no pattern matches.
  """
  compiled = [(re.compile(pattern), value) for pattern, value in patterns]
  found, missed = {}, []
  for path in paths:
    for pattern, value in compiled:
      if pattern.fullmatch(path):
        found[path] = value
        break
    else:
      missed.append(path)
  if missed:
    raise UserError(f'No pattern of {[p for p, _ in patterns]} matches {missed[:8]}.')
  return found


def split(tree: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, dict[str, Any]]:
  """Groups the leaves of a flat tree by their label: {label: {path: leaf}}."""
  groups = {label: {} for label in labels.values()}
  for path, leaf in tree.items():
    groups[labels[path]][path] = leaf
  return groups


def select(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """The subtree below `prefix.`, its paths without the prefix."""
  start = prefix + '.'
  return {path[len(start) :]: leaf for path, leaf in tree.items() if path.startswith(start)}


def prefixed(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """The same tree below `prefix.`."""
  return {f'{prefix}.{path}': leaf for path, leaf in tree.items()}


def labelled(patterns: Sequence[tuple[str, str]], tree: Mapping[str, Any]) -> dict[str, dict]:
  """(pattern, 'train' | 'freeze') applied to a tree: dict(train=..., freeze=...).

  Raises:
    UserError: a path that no pattern matches, or another label.
  """
  labels = match(patterns, tree)
  for label in set(labels.values()):
    choose(dict(train=0, freeze=0), label, 'label of config.trainable')
  return dict(train={}, freeze={}) | split(tree, labels)
