"""Owns timing: contestants take turns in one process, so that what disturbs one disturbs all."""

import statistics
import time
from collections.abc import Callable, Mapping


def race(contestants: Mapping[str, Callable[[], None]], *, rounds: int) -> dict[str, list[float]]:
  """Milliseconds of every round, {name: [rounds]}; each contestant blocks until it is done."""
  for run in contestants.values():
    run()
    run()
  times = {name: [] for name in contestants}
  for turn in range(rounds):
    # Every other round runs backwards: nobody always follows the same neighbour.
    for name, run in list(contestants.items())[:: 1 if turn % 2 == 0 else -1]:
      start = time.perf_counter()
      run()
      times[name].append(1e3 * (time.perf_counter() - start))
  return times


def table(times: Mapping[str, list[float]], *, reference: str) -> str:
  """Median, minimum, and the ratio of medians (of minima) to the reference's, as Markdown."""
  lines = ['| what | median ms | min ms | median ratio | min ratio |', '|---|---|---|---|---|']
  base = times[reference]
  for name, row in times.items():
    middle, least = statistics.median(row), min(row)
    ratios = f'{middle / statistics.median(base):.2f} | {least / min(base):.2f}'
    lines.append(f'| {name} | {middle:.1f} | {least:.1f} | {ratios} |')
  return '\n'.join(lines)
