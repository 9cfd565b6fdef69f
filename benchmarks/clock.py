"""Owns timing: contestants take turns in one process, so that what disturbs one disturbs all."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Lap(NamedTuple):
  """Milliseconds of one run: by the wall's clock, and of this process on all its cores."""

  wall: float
  cpu: float


def race(contestants: Mapping[str, Callable[[], None]], *, rounds: int) -> dict[str, list[Lap]]:
  """The laps of every round, {name: [rounds]}; each contestant blocks until it is done."""
  for run in contestants.values():
    run()
    run()
  laps = {name: [] for name in contestants}
  for turn in range(rounds):
    # Every other round runs backwards: nobody always follows the same neighbour.
    for name, run in list(contestants.items())[:: 1 if turn % 2 == 0 else -1]:
      wall, cpu = time.perf_counter(), time.process_time()
      run()
      lap = Lap(time.perf_counter() - wall, time.process_time() - cpu)
      laps[name].append(Lap(*(1e3 * seconds for seconds in lap)))
  return laps


def median(row: list[Lap]) -> float:
  """Milliseconds by the wall's clock."""
  return statistics.median(lap.wall for lap in row)


def table(laps: Mapping[str, list[Lap]], *, reference: str) -> str:
  """Medians and minima, and their ratios to the reference's, as Markdown."""
  columns = {
    'median ms': median,
    'min ms': lambda row: min(lap.wall for lap in row),
    'CPU ms': lambda row: statistics.median(lap.cpu for lap in row),
  }
  head = ['what', *columns, *(f'ratio of {name.removesuffix(" ms")}' for name in columns)]
  lines = [head, ['---'] * len(head)]
  base = [measure(laps[reference]) for measure in columns.values()]
  for name, row in laps.items():
    values = [measure(row) for measure in columns.values()]
    ratios = [f'{value / other:.2f}' for value, other in zip(values, base, strict=True)]
    lines.append([name, *(f'{value:.1f}' for value in values), *ratios])
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
