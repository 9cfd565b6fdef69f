"""Owns charts as inline SVG: lines over sampling steps, and a loss over training."""

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 130, 16, 34
COLOURS = ('#2563eb', '#d97706', '#059669', '#db2777', '#7c3aed', '#64748b')


def lines(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, log_x: bool) -> str:
  """A chart with one labelled line per entry: label -> (x, y) pairs."""
  points = [point for line in series.values() for point in line]
  if not points:
    return ''
  at_x = _scale([x for x, _ in points], LEFT, WIDTH - RIGHT, log=log_x)
  at_y = _scale([y for _, y in points], HEIGHT - BOTTOM, TOP)
  parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">']
  parts += _axes(points, at_x, at_y, log_x)
  taken = []
  for number, (label, line) in enumerate(series.items()):
    parts += _line(label, sorted(line), COLOURS[number % len(COLOURS)], at_x, at_y, taken)
  return f'<figure><figcaption>{title}</figcaption>{"".join(parts)}</svg></figure>'


def _scale(values, start, end, *, log=False):
  warp = math.log2 if log else (lambda v: v)
  low, high = warp(min(values)), warp(max(values))
  pad = 0 if log else 0.06 * (high - low)
  low, high = low - pad, high + pad
  span = (high - low) or 1.0
  return lambda value: start + (warp(value) - low) / span * (end - start)


def _axes(points, at_x, at_y, log_x) -> list[str]:
  ys = [y for _, y in points]
  low, high = min(ys), max(ys)
  xs = sorted({x for x, _ in points}) if log_x else _ticks(0, max(x for x, _ in points))
  parts = []
  for tick in _ticks(low, high):
    y = at_y(tick)
    parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(_tick(LEFT - 6, y + 4, 'end', f'{tick:.4g}'))
  for tick in xs:
    parts.append(_tick(at_x(tick), HEIGHT - 14, 'middle', f'{tick:g}'))
  return parts


def _tick(x: float, y: float, anchor: str, text: str) -> str:
  return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _ticks(low: float, high: float) -> list[float]:
  span = (high - low) or 1.0
  step = 10 ** math.floor(math.log10(span / 3))
  step *= next(k for k in (1, 2, 5, 10) if span / (k * step) <= 5)
  return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _line(label, line, colour, at_x, at_y, taken) -> list[str]:
  xy = [(at_x(x), at_y(y)) for x, y in line]
  path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in xy)
  parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
  if len(xy) <= 12:
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in xy]
  y = xy[-1][1]
  while any(abs(y - other) < 13 for other in taken):  # Keeps labels apart.
    y += 3
  taken.append(y)
  x = WIDTH - RIGHT + 8  # Beside the chart: a shorter line's label would lie on a longer line.
  parts.append(f'<text class="label" x="{x}" y="{y + 4:.1f}" fill="{colour}">{label}</text>')
  return parts
