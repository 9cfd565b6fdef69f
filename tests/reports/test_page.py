import json
import re

import numpy as np
import pytest

from cdd.metrics import METRICS, of_rows
from cdd.metrics.psnr import PSNR
from cdd.reports import charts, page, pictures, table


@pytest.fixture
def report(rows, tmp_path):
  """Writes a page and returns its text."""

  def write(**changes):
    shown = {(name, 1): np.zeros((2, 8, 8, 3)) for name in ('ours', 'old')}
    batch = dict(image=np.zeros((2, 8, 8, 3)))
    beside = pictures.side_by_side('ours', 'old', shown, batch)
    settings = dict(
      title='A <run>',
      findings=[page.Finding('At 4 steps ours is behind.', beside), page.Finding('More.')],
      notes=['words'],
      rows=[rows('ours', 1, lpips=0.2), rows('ours', 4, lpips=0.1), rows('bicubic', None, lpips=0)],
      pictures=[pictures.alone('ours', shown, batch)],
      log=[dict(step=1, loss=2.0, other=1.0), dict(step=2, loss=1.0, other=1.0)],
      plots=('loss',),
    )
    settings.update(changes)
    page.write(tmp_path, **settings)
    return (tmp_path / 'report.html').read_text()

  return write


def test_the_page_is_self_contained_and_metrics_json_holds_the_rows(report, rows, tmp_path):
  text = report()
  assert 'http' not in text and 'data:image/webp;base64,' in text and 'A &lt;run&gt;' in text
  assert text.count('<svg') == len(of_rows([rows('ours', 1, lpips=0)])) + 1
  assert json.loads((tmp_path / 'metrics.json').read_text())[1] == rows('ours', 4, lpips=0.1)
  assert not list(tmp_path.glob('*.tmp'))


def test_the_page_opens_with_the_finding_and_its_picture_and_fits_a_narrow_screen(report):
  text = report()
  visible = re.sub(r'<style>.*?</style>', '', text, flags=re.DOTALL)
  start = r'<body><h1>[^/]*</h1><p class="finding">At 4 steps ours is behind.</p><div[^<]*><img '
  assert re.search(start, visible)
  assert '<meta name="viewport" content="width=device-width' in text
  assert text.index('<div class="scroll"') < text.index('<table>')


def test_the_table_says_of_how_many_pictures_the_examples_are_where_they_are_fewer(report, rows):
  heading = '>of pictures</th>'
  assert heading not in report()
  assert heading not in report(rows=[dict(rows('ours', 1), pictures=128)])
  few = [dict(rows('ours', 1), pictures=2), rows('finetune (shipped)', 1)]
  text = report(rows=few)
  assert heading in text and '<td>128</td><td>2</td>' in text and '<td>128</td><td>–</td>' in text


def test_every_picture_says_in_words_what_it_shows(report):
  beside, alone = re.findall(r'<img alt="([^"]*)"', report())
  assert alone == 'The first 2 held-out examples, one in each row. Columns: ours at 1 step, truth.'
  assert 'Columns: ours at 1 step, old at 1 step, truth.' in beside


def test_a_finding_may_have_a_heading_and_no_picture(tmp_path):
  findings = [page.Finding('One.'), page.Finding('Two.', heading='The <other>')]
  page.write_findings(tmp_path, title='t', findings=findings)
  text = (tmp_path / 'report.html').read_text()
  two = '<h2>The &lt;other&gt;</h2><p class="finding">Two.</p>'
  assert text.endswith(f'<p class="finding">One.</p>{two}</body></html>\n')


def test_only_the_scalars_that_the_method_plots_are_drawn(report):
  assert '>loss<' in report() and '>other<' not in report()
  assert 'Training' not in report(plots=('missing',))


def test_a_metric_that_is_added_is_in_the_table_and_has_a_chart(report, rows, monkeypatch):
  monkeypatch.setitem(METRICS, 'toy', PSNR._replace(label='Toy', digits=1))
  text = report(rows=[rows('ours', 1, toy=7.25), rows('old', 1)])
  assert 'Toy ↑</th>' in text and '<b>7.2</b>' in text
  assert 'Toy over sampling steps; higher is better' in text


def test_bold_is_the_best_of_the_rows_with_steps_and_the_same_examples(rows):
  listed = [rows('ours', 1, lpips=0.2), rows('ours', 4, lpips=0.111), rows('x', None, lpips=0.0)]
  listed += [rows('rival', 4, lpips=0.05, count=1024)]
  assert table.best_values(listed)['lpips'] == 0.111
  text = table.table(listed)
  assert '<b>0.111</b>' in text and '<b>0.050</b>' not in text and '<b>0.000</b>' not in text


def test_a_time_that_was_not_measured_here_is_a_dash(rows):
  last = re.findall(
    r'<td>([^<]*)</td></tr>', table.table([rows('a', 1), rows('b', 1, seconds=None)])
  )
  assert last == ['10.0', '–']


def chart(series, **settings):
  return charts.lines(series, title='t', x_name='steps', y_name='LPIPS', **settings)


def test_a_chart_places_points_on_its_scales_and_names_its_axes():
  svg = chart({'a': [(1, 0.0), (2, 0.5), (4, 1.0)]}, log_x=True)
  (points,) = re.findall(r'polyline points="([^"]*)"', svg)
  x, y = np.array([[float(v) for v in point.split(',')] for point in points.split()]).T
  assert x[0] == charts.LEFT and np.allclose(np.diff(x, 2), 0, atol=0.2)  # Octaves: even steps.
  assert np.allclose(np.diff(y, 2), 0, atol=0.2) and y[0] > y[-1]  # Downwards is less.
  assert '>steps<' in svg and '>LPIPS<' in svg


def test_labels_stand_beside_the_ends_of_their_lines_in_their_order_and_never_overlap():
  rng = np.random.default_rng(0)
  for _ in range(15):
    ends = [(rng.choice([200.0, 300.0]), rng.uniform(100, 150)) for _ in range(5)]
    paths = [[(50.0, rng.uniform(40, 200)), end] for end in ends]
    boxes = charts.place(ends, ['ours', 'ours (shipped)', 'finetune', 'b', 'c'], paths)
    for number, box in enumerate(boxes):
      assert 0 < box.left - ends[number][0] < 10
      assert abs((box.top + box.bottom) / 2 - ends[number][1]) < 96
      assert not any(
        min(box.right, other.right) > max(box.left, other.left)
        and min(box.bottom, other.bottom) > max(box.top, other.top)
        for other in boxes[:number]
      )
    for x in (200.0, 300.0):
      pairs = [(end[1], box.top) for end, box in zip(ends, boxes, strict=True) if end[0] == x]
      assert [top for _, top in sorted(pairs)] == sorted(top for _, top in pairs)


def test_a_chart_without_points_is_not_drawn():
  assert chart({'a': []}) == ''
