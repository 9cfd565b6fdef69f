"""Owns the table of a report: a row per method and number of steps, a column per metric."""

import html
from collections.abc import Callable, Mapping, Sequence

from cdd.metrics import METRICS, of_rows
from cdd.metrics.metric import Metric

NOTE = (
  'Bold: the best in its column among the rows with steps that were measured on as many examples '
  'as the first row.'
)

TEXT = ' class="text"'
# What stands before the metrics: (a row's key, the heading, how the cells are aligned).
COLUMNS = (
  ('method', 'method', TEXT),
  ('steps', 'steps', ''),
  ('sampler', 'sampler', TEXT),
  ('updates', 'updates', ''),
  ('count', 'examples', ''),
  ('pictures', 'of pictures', ''),
)


def table(
  rows: Sequence[Mapping],
  *,
  heading: str = 'method',
  by: str = 'method',
  best: Callable[[Mapping], Mapping[str, float]] | None = None,
) -> str:
  """Rows of dicts as HTML, in a box that scrolls where the page is narrower than the table.

  Args:
    heading: of the first column.
    by: the key of a row at whose changes a line is drawn.
    best: a row -> the best values of those that it is compared with; those of all, if None.
  """
  overall = best_values(rows) if best is None else {}
  shown, columns = of_rows(rows), columns_of(rows)
  lines, before = [], None
  for row in rows:
    cells = ''.join(
      f'<td{kind}>{html.escape(_text(row.get(key)))}</td>' for key, _, kind in columns
    )
    bold = overall if best is None else best(row)
    cells += ''.join(f'<td>{_value(row, name, bold)}</td>' for name in shown)
    seconds = row['seconds_per_image']
    cells += f'<td>{_text(None if seconds is None else f"{1000 * seconds:.1f}")}</td>'
    first = ' class="first"' if row[by] != before else ''
    lines.append(f'<tr{first}>{cells}</tr>')
    before = row[by]
  return _boxed(_headings([('', heading, TEXT), *columns[1:]], shown), lines)


def plain(headings: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
  """A table of texts: (what stands first in a line, the others) for each line."""
  head = ''.join(f'<th scope="col"{TEXT}>{html.escape(word)}</th>' for word in headings)
  lines = []
  for first, others in rows:
    cells = ''.join(f'<td{TEXT}>{html.escape(text)}</td>' for text in (first, *others))
    lines.append(f'<tr>{cells}</tr>')
  return _boxed(head, lines)


def _boxed(headings: str, lines: Sequence[str]) -> str:
  body = f'<thead><tr>{headings}</tr></thead><tbody>{"".join(lines)}</tbody>'
  return f'<div class="scroll" tabindex="0"><table>{body}</table></div>'


def best_values(rows: Sequence[Mapping]) -> dict[str, float]:
  """Metric -> the best value of the rows with steps and as many examples as the first row."""
  rivals = [row for row in rows if row['steps'] and row['count'] == rows[0]['count']]
  values = {name: [row[name] for row in rivals if name in row] for name in METRICS}
  return {name: METRICS[name].better(found) for name, found in values.items() if found}


def columns_of(rows: Sequence[Mapping]) -> list[tuple[str, str, str]]:
  """COLUMNS, without that of the pictures where each example is one of its own."""
  crops = any(row.get('pictures', row['count']) < row['count'] for row in rows)
  return [column for column in COLUMNS if crops or column[0] != 'pictures']


def _headings(columns: Sequence, metrics: Mapping[str, Metric]) -> str:
  words = [(heading, kind) for _, heading, kind in columns]
  words += [(metric.heading, '') for metric in metrics.values()] + [('ms / image', '')]
  return ''.join(f'<th scope="col"{kind}>{html.escape(word)}</th>' for word, kind in words)


def _text(value) -> str:
  return '–' if value is None else str(value)


def _value(row: Mapping, name: str, best: Mapping[str, float]) -> str:
  if name not in row:
    return '–'
  text = METRICS[name].shown(row[name])
  return f'<b>{text}</b>' if row[name] == best.get(name) and row['steps'] else text
