"""Owns charts as inline SVG: labelled lines over sampling steps or over training."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 400, 260
LEFT, TOP, BOTTOM = 46, 30, 46
LETTER, LINE = 8.4, 14  # The width of a letter of a label at most, and the height of its line.
COLOURS = ('#2563eb', '#d97706', '#059669', '#db2777', '#7c3aed', '#64748b')

Points = Sequence[tuple[float, float]]


class Box(NamedTuple):
  """Where a label lies."""

  left: float
  top: float
  right: float
  bottom: float

  def meets(self, other: 'Box') -> bool:
    across = self.left < other.right and other.left < self.right
    return across and self.top < other.bottom and other.top < self.bottom

  def holds(self, x: float, y: float) -> bool:
    return self.left < x < self.right and self.top < y < self.bottom


def lines(
  series: Mapping[str, Points],
  *,
  title: str,
  x_name: str,
  y_name: str,
  log_x: bool = False,
  order: Sequence[str] | None = None,
) -> str:
  """A chart with one labelled line per entry: label -> (x, y) pairs; '' where there are none.

  Args:
    order: the labels of all charts of a page, so that a label has one colour on it.
  """
  points = [point for line in series.values() for point in line]
  if not points:
    return ''
  last = max(x for x, _ in points)
  # Room for the labels of the lines that end at the right.
  right = WIDTH - 8 - max(_size(label)[0] for label, line in series.items() if max(line)[0] == last)
  at_x = _scale([x for x, _ in points], LEFT, right, log=log_x)
  at_y = _scale([y for _, y in points], HEIGHT - BOTTOM, TOP)
  paths = [[(at_x(x), at_y(y)) for x, y in sorted(line)] for line in series.values()]
  places = place([path[-1] for path in paths], list(series), paths)
  drawn, written = [], []
  for number, (label, path) in enumerate(zip(series, paths, strict=True)):
    place_of = number if order is None else order.index(label)
    colour = COLOURS[place_of % len(COLOURS)]
    drawn += _line(path, colour)
    for row, words in enumerate(_rows(label)):
      x, y = places[number].left, places[number].top + (row + 1) * LINE - 3
      written.append(_text('label', x, y, 'start', words, f' fill="{colour}"'))
  parts = _axes(points, at_x, at_y, right, log_x) + _names(x_name, y_name, right) + drawn + written
  what = html.escape(f'{title}: {", ".join(series)}')
  svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{what}">{"".join(parts)}</svg>'
  return f'<figure><figcaption>{html.escape(title)}</figcaption>{svg}</figure>'


def place(ends: Points, labels: Sequence[str], paths: Sequence[Points]) -> list[Box]:
  """A box for each label beside the end of its line, clear of other labels and perhaps of lines.

  Where lines end side by side, their labels stand in the order of their ends.
  """
  dense = [point for path in paths for point in _dense(path)]
  placed: dict[int, Box] = {}
  for number in sorted(range(len(ends)), key=lambda number: -ends[number][1]):
    (x, y), (width, height) = ends[number], _size(labels[number])

    def cost(shift: float, x=x, y=y, width=width, height=height) -> tuple[float, Box]:
      box = Box(x + 7, y + shift - height / 2, x + 7 + width, y + shift + height / 2)
      wrong = box.top < TOP - 8 or box.bottom > HEIGHT - BOTTOM
      wrong += 2 * sum(box.meets(other) for other in placed.values())
      # The ends that are lower were placed before.
      wrong += sum(abs(ends[n][0] - x) < width and box.top > placed[n].top for n in placed)
      return 1000 * wrong + 6 * sum(box.holds(*point) for point in dense) + abs(shift), box

    placed[number] = min(map(cost, range(-96, 97, 3)))[1]
  return [placed[number] for number in range(len(ends))]


def _rows(label: str) -> list[str]:
  """'finetune (shipped)' takes two lines: beside a chart there is little room."""
  return label.replace(' (', '\n(').split('\n')


def _size(label: str) -> tuple[float, float]:
  rows = _rows(label)
  return LETTER * max(map(len, rows)), LINE * len(rows)


def _dense(path: Points) -> Points:
  """Points of a line that are at most about 4 apart."""
  out = list(path)
  for (x0, y0), (x1, y1) in zip(path, path[1:], strict=False):
    count = int(math.hypot(x1 - x0, y1 - y0) / 4)
    out += [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(1, count)]
  return out


def _scale(values: Sequence[float], start: float, end: float, *, log: bool = False) -> Callable:
  warp = math.log2 if log else float
  low, high = warp(min(values)), warp(max(values))
  span = (high - low) or 1.0
  if start > end:  # The vertical scale leaves some room below and above.
    low, span = low - 0.06 * span, 1.12 * span

  def at(value: float) -> float:
    return start + (warp(value) - low) / span * (end - start)

  return at


def _axes(points: Points, at_x, at_y, right: float, log_x: bool) -> list[str]:
  ys = [y for _, y in points]
  xs = sorted({x for x, _ in points}) if log_x else _ticks(0, max(x for x, _ in points))
  base = HEIGHT - BOTTOM
  parts = []
  for tick in _ticks(min(ys), max(ys)):
    y = at_y(tick)
    parts.append(f'<line class="rule" x1="{LEFT}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(_text('tick', LEFT - 6, y + 4, 'end', f'{tick:.4g}'))
  parts += [f'<path class="axis" d="M{LEFT} {TOP}V{base}H{right:.1f}"/>']
  for tick in xs:
    if LEFT - 1 <= at_x(tick) <= right + 1:
      parts.append(_text('tick', at_x(tick), base + 16, 'middle', f'{tick:g}'))
  return parts


def _names(x_name: str, y_name: str, right: float) -> list[str]:
  middle = (LEFT + right) / 2
  return [
    _text('name', middle, HEIGHT - 10, 'middle', x_name),
    _text('name', 4, TOP - 14, 'start', y_name),
  ]


def _text(kind: str, x: float, y: float, anchor: str, text: str, more: str = '') -> str:
  where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
  return f'<text class="{kind}" {where}{more}>{html.escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
  span = (high - low) or 1.0
  step = 10 ** math.floor(math.log10(span / 3))
  step *= next(k for k in (1, 2, 5, 10) if span / (k * step) <= 5)
  return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _line(path: Points, colour: str) -> list[str]:
  points = ' '.join(f'{x:.1f},{y:.1f}' for x, y in path)
  parts = [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>']
  if len(path) <= 12:
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in path]
  return parts
