"""Owns the sentence that says what a run's measurements show, win or lose."""

from collections.abc import Mapping, Sequence

from cdd.metrics import METRICS

MOST = 4  # The few steps that the method is for.
LEADING = ('lpips', 'frechet')  # The metrics whose values the sentence gives.
VERDICTS = dict(ahead='ahead of', level='level with', behind='behind')

Pair = tuple[Mapping, Mapping]


def sentence(rows: Sequence[Mapping], method: str, rival: str | None, name: str) -> str:
  """At which numbers of steps a method is ahead of a rival, and in which metrics.

  Args:
    rows: dicts with method, steps, count, updates and the metrics by name.
    method, rival: two labels of rows; a rival without rows is said to be missing.
    name: what the sentence calls the rival; '' where none is missed.

  Returns:
    One sentence, or '' where the method has no row with steps.
  """
  pairs = [pair for pair in at_same_steps(rows, method, rival) if _shared(*pair)] if rival else []
  if pairs:
    ours, other = _lead(pairs)
    return (_compared if ours['count'] == other['count'] else _unlike)(pairs, name)
  if alone := at_same_steps(rows, method):
    (row,) = _lead(alone)
    values = [f'{m.label} {m.shown(row[key])}' for key, m in METRICS.items() if key in row]
    missing = f'; {name} was not measured beside it' if name else ''
    return f'At {_steps([row["steps"]])} {_with(method, row)} measures {_listed(values)}{missing}.'
  return ''


def at_same_steps(rows: Sequence[Mapping], *methods: str) -> list[tuple[Mapping, ...]]:
  """A row of each method for every number of steps that all of them have, the fewest first."""
  found = [{r['steps']: r for r in rows if r['method'] == m and r['steps']} for m in methods]
  common = sorted(set.intersection(*map(set, found)))
  return [tuple(of_method[steps] for of_method in found) for steps in common]


def _lead(pairs: Sequence[tuple[Mapping, ...]]) -> tuple[Mapping, ...]:
  """Those of the largest number of steps up to `MOST`."""
  return [pair for number, pair in enumerate(pairs) if pair[0]['steps'] <= MOST or not number][-1]


def _compared(pairs: Sequence[Pair], name: str) -> str:
  """Ahead or behind, what is the case more often comes first; else that of the first metric."""
  found: dict[str, dict[str, list[int]]] = {}  # Verdict -> metric -> numbers of steps.
  for key in METRICS:
    for ours, other in pairs:
      if key in ours and key in other:
        steps = found.setdefault(_verdict(key, ours, other), {}).setdefault(key, [])
        steps.append(ours['steps'])
  often = {verdict: sum(map(len, steps.values())) for verdict, steps in found.items()}
  first, *rest = sorted(found, key=lambda verdict: (verdict == 'level', -often[verdict]))
  ours, other = _lead(pairs)
  alike = ours['updates'] == other['updates']
  who, whom = (
    (f'At {ours["updates"]} updates each, {ours["method"]}', name)
    if alike
    else (
      f'The numbers of updates differ: {ours["method"]} after {ours["updates"]}',
      f'{name} after {other["updates"]}',
    )
  )
  parts = [f'{VERDICTS[first]} {whom} {_where(found[first])}']
  parts += [f'{VERDICTS[verdict]} it {_where(found[verdict])}' for verdict in rest]
  shared = _shared(ours, other)
  values = _values(ours, other, [key for key in LEADING if key in shared] or shared)
  return f'{who} is {"; ".join(parts)} (at {_steps([ours["steps"]])}: {values}).'


def _unlike(pairs: Sequence[Pair], name: str) -> str:
  """Without a verdict: on fewer examples some distances are larger, whatever the model."""
  ours, other = _lead(pairs)
  both = f'{_with(ours["method"], ours)} and {_with(name, other)}'
  values = _values(ours, other, _shared(ours, other))
  return f'At {_steps([ours["steps"]])} {both} cannot be compared exactly: {values}.'


def _shared(ours: Mapping, other: Mapping) -> list[str]:
  return [key for key in METRICS if key in ours and key in other]


def _verdict(key: str, ours: Mapping, other: Mapping) -> str:
  metric = METRICS[key]
  if metric.shown(ours[key]) == metric.shown(other[key]):
    return 'level'
  return 'ahead' if metric.better(ours[key], other[key]) == ours[key] else 'behind'


def _where(found: Mapping[str, Sequence[int]]) -> str:
  """'in LPIPS and Fréchet at 1 and 2 steps and in PSNR at 8 steps'."""
  groups: dict[tuple[int, ...], list[str]] = {}
  for key, steps in found.items():
    groups.setdefault(tuple(steps), []).append(METRICS[key].label)
  return _listed([f'in {_listed(labels)} at {_steps(n)}' for n, labels in groups.items()])


def _values(ours: Mapping, other: Mapping, keys: Sequence[str]) -> str:
  shown = {key: METRICS[key].shown for key in keys}
  return _listed(
    [f'{METRICS[k].label} {shown[k](ours[k])} against {shown[k](other[k])}' for k in keys]
  )


def _steps(numbers: Sequence[int]) -> str:
  return f'{_listed([*map(str, numbers)])} step{"s" * (numbers[-1] > 1)}'


def _with(label: str, row: Mapping) -> str:
  """'ours (200 updates, measured on 128 examples)'; 'ours (shipped; 800 updates, ...)'."""
  parts = [f'{row["updates"]} updates'] if row.get('updates') else []
  parts.append(f'measured on {row["count"]} examples')
  start = f'{label[:-1]}; ' if label.endswith(')') else f'{label} ('
  return f'{start}{", ".join(parts)})'


def _listed(texts: Sequence[str]) -> str:
  *others, last = texts
  return f'{", ".join(others)} and {last}' if others else last
