"""Several seeds of one config as one table: python -m benchmarks.spread runs/a runs/b runs/c."""

import json
import statistics
import sys
from pathlib import Path

from cdd.metrics import of_rows


def spread(runs: list[list[dict]]) -> list[dict]:
  """Rows of the same method, steps and sampler over runs: mean and sample standard deviation."""
  key = lambda row: (row['method'], row['steps'], row['sampler'])
  out = []
  for row in runs[0]:
    same = [other for rows in runs for other in rows if key(other) == key(row)]
    values = {name: [other[name] for other in same] for name in of_rows(same)}
    out.append(
      dict(zip(('method', 'steps', 'sampler'), key(row), strict=True), seeds=len(same))
      | {name: statistics.mean(found) for name, found in values.items()}
      | {f'{name}_sd': statistics.stdev(v) if len(v) > 1 else 0.0 for name, v in values.items()}
    )
  return out


def markdown(rows: list[dict]) -> str:
  """The rows as a table; one seed has no spread."""
  metrics = of_rows(rows)
  headings = ['method', 'steps', 'sampler', *(metric.heading for metric in metrics.values())]
  lines = [f'| {" | ".join(headings)} |', '|' + '---|' * len(headings)]
  for row in rows:
    cells = [row['method'], str(row['steps'] or '–'), row['sampler'] or '–']
    for name, metric in metrics.items():
      varies = f' ± {metric.shown(row[f"{name}_sd"])}' if row[f'{name}_sd'] else ''
      cells.append(f'{metric.shown(row[name])}{varies}')
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def main(folders: list[str]) -> None:
  if not folders:
    sys.exit('usage: python -m benchmarks.spread RUN [RUN ...], each with a metrics.json')
  print(markdown(spread([json.loads((Path(f) / 'metrics.json').read_text()) for f in folders])))


if __name__ == '__main__':
  main(sys.argv[1:])
