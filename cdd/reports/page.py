"""Owns report.html and metrics.json: one self-contained page about a run."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from cdd.core import files
from cdd.metrics import METRICS
from cdd.reports import charts, grid

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1e293b, #e2e8f0);
  --soft: light-dark(#64748b, #94a3b8); --rule: light-dark(#e2e8f0, #334155);
  --page: light-dark(#ffffff, #0f172a); }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1060px; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, li { color: var(--soft); max-width: 46rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; } th, td { padding: .3rem .9rem; text-align: right; }
th:first-child, td:first-child, th:nth-child(3), td:nth-child(3) { text-align: left; }
tr { border-bottom: 1px solid var(--rule); } tr.first td { border-top: 2px solid var(--rule); }
.charts { margin-top: 1rem; display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 440px; }
figcaption { color: var(--soft); font-size: .9rem; } svg { width: 100%; height: auto; }
.rule { stroke: var(--rule); } .label { font-size: 12px; }
.tick { fill: var(--soft); font-size: 11px; }
img { max-width: 100%; image-rendering: auto; border-radius: 4px; background: #fff; padding: 6px; }
"""


def write(
  workdir: Path,
  *,
  title: str,
  intro: Sequence[str],
  rows: Sequence[Mapping],
  pictures: Mapping[str, object],
  log: Sequence[Mapping],
  losses: Sequence[str],
) -> None:
  """Writes report.html and metrics.json into `workdir`, each whole or not at all.

  Args:
    rows: dicts with method, steps, sampler, lpips, psnr, ssim, frechet, seconds_per_image.
    pictures: caption -> uint8 [H, W, 3].
    log: dicts with `step` and values; `losses` names those to draw.
  """
  paragraphs = ''.join(f'<p>{html.escape(text)}</p>' for text in intro)
  body = [f'<h1>{html.escape(title)}</h1>{paragraphs}', '<h2>Results</h2>', _table(rows)]
  body.append(
    f'<div class="charts">{_over_steps(rows, "lpips")}{_over_steps(rows, "frechet")}</div>'
  )
  for caption, picture in pictures.items():
    data = base64.b64encode(grid.png(picture)).decode()
    body.append(f'<h2>{html.escape(caption)}</h2><img alt="" src="data:image/png;base64,{data}">')
  series = {name: [(row['step'], row[name]) for row in log if name in row] for name in losses}
  series = {name: line for name, line in series.items() if line}
  if series:
    chart = charts.lines(series, title='loss over steps', log_x=False)
    body.append(f'<h2>Training</h2><div class="charts">{chart}</div>')
  page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
  page += f'<style>{STYLE}</style><body>{"".join(body)}</body></html>\n'
  files.write(Path(workdir) / 'report.html', page)
  files.write_json(Path(workdir) / 'metrics.json', list(rows))


def _table(rows: Sequence[Mapping]) -> str:
  rivals = [row for row in rows if row['steps']] or rows
  best = {n: metric.better(row[n] for row in rivals) for n, metric in METRICS.items()}
  heads = ''.join(f'<th>{metric.heading}</th>' for metric in METRICS.values())
  lines, before = [], None
  for row in rows:
    cells = [html.escape(row['method']), str(row['steps'] or '–'), row['sampler'] or '–']
    cells = ''.join(f'<td>{cell}</td>' for cell in cells)
    for name, metric in METRICS.items():
      text = metric.shown(row[name])
      cells += f'<td>{f"<b>{text}</b>" if row[name] == best[name] else text}</td>'
    cells += f'<td>{1000 * row["seconds_per_image"]:.1f}</td>'
    first = ' class="first"' if row['method'] != before else ''
    lines.append(f'<tr{first}>{cells}</tr>')
    before = row['method']
  return (
    f'<table><tr><th>method</th><th>steps</th><th>sampler</th>{heads}<th>ms / image</th></tr>'
    f'{"".join(lines)}</table>'
  )


def _over_steps(rows: Sequence[Mapping], name: str) -> str:
  series: dict[str, list] = {}
  for row in rows:
    if row['steps']:
      series.setdefault(row['method'], []).append((row['steps'], row[name]))
  return charts.lines(series, title=f'{METRICS[name].heading} over sampling steps', log_x=True)
