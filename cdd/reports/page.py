"""Owns report.html and metrics.json: the layout of one self-contained page about a run."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cdd.core import files
from cdd.metrics import METRICS, of_rows
from cdd.reports import charts, grid
from cdd.reports.pictures import Picture
from cdd.reports.table import table

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1e293b, #e2e8f0);
  --soft: light-dark(#526077, #a3b1c6); --rule: light-dark(#e2e8f0, #334155);
  --page: light-dark(#ffffff, #0f172a); }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1200px; margin: 0 auto; padding: 1.5rem max(1rem, 3vw) 3rem; }
h1 { font-size: 1.6rem; margin: 0 0 .6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { color: var(--soft); max-width: 46rem; margin: .6rem 0; }
p.finding { max-width: 54rem; } p.finding:first-of-type { color: var(--ink); font-size: 1.15rem; }
ul { padding-left: 1.1rem; } li { max-width: 52rem; margin: .25rem 0; }
li, figcaption, .tick, .name { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; }
th, td { padding: .25rem .55rem; text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); }
tr { border-bottom: 1px solid var(--rule); } tr.first td { border-top: 2px solid var(--rule); }
.charts { display: grid; gap: 1.5rem; margin-top: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.charts > :only-child { max-width: 540px; }
figure { margin: 0; } svg { display: block; width: 100%; height: auto; }
.rule { stroke: var(--rule); } .axis { stroke: var(--soft); fill: none; }
.tick, .name { fill: var(--soft); font-size: 11.5px; }
.label { font-size: 12px; font-weight: 600; stroke: var(--page); stroke-width: 4px;
  stroke-linejoin: round; paint-order: stroke; }
img { display: block; width: 100%; background: #fff; padding: 6px; border-radius: 4px; }
"""


class Finding(NamedTuple):
  """What the page opens with.

  Attributes:
    sentence: what was found.
    picture: what shows it, right below; None where there is none.
    heading: what stands above both; '' for nothing.
  """

  sentence: str
  picture: Picture | None = None
  heading: str = ''


def write(
  workdir: Path,
  *,
  title: str,
  findings: Sequence[Finding],
  notes: Sequence[str],
  rows: Sequence[Mapping],
  pictures: Sequence[Picture],
  log: Sequence[Mapping],
  plots: Sequence[str],
) -> None:
  """Writes report.html and metrics.json into `workdir`.

  Args:
    findings: the first one opens the page.
    notes: what a reader must know to understand the table, listed below it.
    rows: dicts with method, steps, sampler, updates, count, seconds_per_image and the metrics by
      name.
    log: dicts with `step` and values; `plots` names those to draw.
  """
  body = ['<h2>Results</h2>', table(rows)]
  body.append(listed(notes))
  body.append(charted(over_steps(rows, name) for name in of_rows(rows)))
  body += [figure(picture) for picture in pictures]
  body.append(training(log, plots))
  write_findings(workdir, title=title, findings=findings, more=body)
  files.write_json(Path(workdir) / 'metrics.json', list(rows))


def write_findings(
  workdir: Path, *, title: str, findings: Iterable[Finding], more: Sequence[str] = ()
) -> None:
  """Writes report.html: its title, what was found, and more parts of HTML below."""
  body = [f'<h1>{html.escape(title)}</h1>']
  for found in findings:
    body += [f'<h2>{html.escape(found.heading)}</h2>'] if found.heading else []
    body.append(f'<p class="finding">{html.escape(found.sentence)}</p>')
    body += [shown(found.picture)] if found.picture else []
  files.write(Path(workdir) / 'report.html', document(title, [*body, *more]))


def document(title: str, body: Iterable[str]) -> str:
  """A whole page of parts of HTML; it needs no other file."""
  head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
  head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
  return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def listed(texts: Iterable[str]) -> str:
  """Sentences as a list."""
  return f'<ul>{"".join(f"<li>{html.escape(text)}</li>" for text in texts)}</ul>'


def charted(drawn: Iterable[str]) -> str:
  """Charts side by side."""
  return f'<div class="charts">{"".join(drawn)}</div>'


def over_steps(rows: Sequence[Mapping], name: str, order: Sequence[str] | None = None) -> str:
  """The chart of a metric: a line per method over its numbers of steps (`charts.lines`)."""
  metric, series = METRICS[name], {}
  for row in rows:
    if row['steps'] and name in row:
      series.setdefault(row['method'], []).append((row['steps'], row[name]))
  better = 'lower' if metric.better is min else 'higher'
  title = f'{metric.label} over sampling steps; {better} is better'
  names = dict(x_name='sampling steps (logarithmic)', y_name=metric.heading, order=order)
  return charts.lines(series, title=title, log_x=True, **names)


def training(log: Sequence[Mapping], plots: Sequence[str]) -> str:
  """The chart of the logged scalars that `plots` names, under its heading; '' without any."""
  series = {name: [(row['step'], row[name]) for row in log if name in row] for name in plots}
  series = {name: line for name, line in series.items() if line}
  names = dict(x_name='updates', y_name='value')
  chart = charts.lines(series, title='Logged while training', **names)
  return f'<h2>Training</h2>{charted([chart])}' if chart else ''


def figure(picture: Picture) -> str:
  """A picture under its heading."""
  return f'<h2>{html.escape(picture.heading)}</h2>{shown(picture)}'


def shown(picture: Picture) -> str:
  """A picture without its heading."""
  data = base64.b64encode(grid.encode(picture.image, 'webp')).decode()
  # As wide as its pixels at most; on a narrow screen it scrolls in place of becoming illegible.
  height, width = picture.image.shape[:2]
  style = f'max-width:{width + 12}px;min-width:{min(width, 640)}px'
  size = f'width="{width}" height="{height}"'
  alt = html.escape(picture.alt)
  image = (
    f'<img alt="{alt}" {size} style="{style};height:auto" src="data:image/webp;base64,{data}">'
  )
  return f'<div class="scroll" tabindex="0">{image}</div>'
