"""Owns the sentence that says what a run's measurements show, win or lose."""

from collections.abc import Mapping, Sequence

from cdd.metrics import METRICS

MOST = 4  # The few steps that the method is for.
VERDICTS = dict(ahead='ahead of', level='level with', behind='behind')


def sentence(rows: Sequence[Mapping], method: str, rival: str | None, name: str) -> str:
  """How a method compares with a rival in every metric, at the same number of steps.

  Args:
    rows: dicts with method, steps, count, updates and the metrics by name.
    method, rival: two labels of rows; a rival without rows is said to be missing.
    name: what the sentence calls the rival; '' where none is missed.

  Returns:
    One sentence, or '' where the method has no row with steps.
  """
  pair = at_same_steps(rows, method, rival) if rival else []
  if pair:
    alike = pair[0]['count'] == pair[1]['count']
    return (_compared if alike else _unlike)(*pair, name)
  for row in at_same_steps(rows, method):
    values = [f'{m.label} {m.shown(row[key])}' for key, m in METRICS.items() if key in row]
    missing = f'; {name} was not measured beside it' if name else ''
    who = _with(method, row, count=True)
    return f'{_at(row)} {who} measures {_listed(values)}{missing}.'
  return ''


def at_same_steps(rows: Sequence[Mapping], *methods: str) -> list[Mapping]:
  """A row of each method, at the largest number of steps up to `MOST` that all of them have."""
  found = [{r['steps']: r for r in rows if r['method'] == m and r['steps']} for m in methods]
  common = sorted(set.intersection(*map(set, found)))
  if not common:
    return []
  steps = max((n for n in common if n <= MOST), default=common[0])
  return [of_method[steps] for of_method in found]


def _compared(ours: Mapping, other: Mapping, name: str) -> str:
  groups: dict[str, list[str]] = {}  # In the order of METRICS: the first one leads the sentence.
  for key, text in _pairs(ours, other).items():
    better = METRICS[key].better(ours[key], other[key]) == ours[key]
    level = METRICS[key].shown(ours[key]) == METRICS[key].shown(other[key])
    verdict = 'level' if level else 'ahead' if better else 'behind'
    groups.setdefault(verdict, []).append(text)
  first, *rest = groups
  where = 'in' if rest else 'in all that was measured:'
  parts = [f'{VERDICTS[first]} {_with(name, other)} {where} {_listed(groups[first])}']
  parts += [f'{VERDICTS[verdict]} it in {_listed(groups[verdict])}' for verdict in rest]
  return f'{_at(ours)} {_with(ours["method"], ours)} is {"; ".join(parts)}.'


def _unlike(ours: Mapping, other: Mapping, name: str) -> str:
  """Without a verdict: on fewer examples some distances are larger, whatever the model."""
  both = f'{_with(ours["method"], ours, count=True)} and {_with(name, other, count=True)}'
  pairs = _listed([*_pairs(ours, other).values()])
  return f'{_at(ours)} {both} cannot be compared exactly: {pairs}.'


def _pairs(ours: Mapping, other: Mapping) -> dict[str, str]:
  return {
    key: f'{metric.label} ({metric.shown(ours[key])} against {metric.shown(other[key])})'
    for key, metric in METRICS.items()
    if key in ours and key in other
  }


def _at(row: Mapping) -> str:
  return f'At {row["steps"]} step{"s" * (row["steps"] > 1)}'


def _with(label: str, row: Mapping, *, count: bool = False) -> str:
  """'ours (200 updates)'; 'ours (shipped; 800 updates)'."""
  parts = [f'{row["updates"]} updates'] if row.get('updates') else []
  parts += [f'measured on {row["count"]} examples'] if count else []
  start = f'{label[:-1]}; ' if label.endswith(')') else f'{label} ('
  return f'{start}{", ".join(parts)})' if parts else label


def _listed(texts: Sequence[str]) -> str:
  *others, last = texts
  return f'{", ".join(others)} and {last}' if others else last
