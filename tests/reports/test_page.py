import json

import numpy as np

from cdd.reports import charts, grid, page


def test_the_page_is_self_contained_and_metrics_json_holds_the_rows(tmp_path):
  common = dict(psnr=20.0, ssim=0.5, seconds_per_image=0.01, sampler='consistency')
  rows = [
    dict(common, method='ours', steps=1, lpips=0.2, frechet=9.0),
    dict(common, method='ours', steps=4, lpips=0.1, frechet=8.0),
    dict(common, method='bicubic', steps=None, lpips=0.4, frechet=30.0),
  ]
  picture = grid.grid({'truth': np.zeros((2, 8, 8, 3))})
  page.write(
    tmp_path,
    title='A <run>',
    intro=['words'],
    rows=rows,
    pictures={'ours': picture},
    log=[dict(step=1, loss=2.0), dict(step=2, loss=1.0)],
    losses=('loss',),
  )
  text = (tmp_path / 'report.html').read_text()
  assert 'http' not in text and 'data:image/png;base64,' in text and 'A &lt;run&gt;' in text
  assert '<b>0.100</b>' in text and text.count('<svg') == 3
  assert json.loads((tmp_path / 'metrics.json').read_text()) == rows
  assert not list(tmp_path.glob('*.tmp'))


def test_a_grid_has_a_column_per_label_and_a_row_per_image():
  out = grid.grid({'a': np.zeros((3, 8, 8, 3)), 'b': np.ones((3, 8, 8, 3))}, scale=2)
  assert out.shape == (grid.TOP + 3 * 20 - 4, 2 * 16 + 4, 3)
  assert out[grid.TOP + 4, 4].tolist() == [0, 0, 0]
  assert out[grid.TOP + 4, 24].tolist() == [255, 255, 255]


def test_png_files_read_back(tmp_path):
  from PIL import Image

  image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  grid.save_png(tmp_path / 'deep' / 'x.png', image)
  assert np.array_equal(np.asarray(Image.open(tmp_path / 'deep' / 'x.png')), image)


def test_a_chart_places_points_on_its_scales():
  svg = charts.lines({'a': [(1, 0.0), (8, 1.0)]}, title='t', log_x=True)
  assert f'{charts.LEFT:.1f},' in svg and f'{charts.WIDTH - charts.RIGHT:.1f},' in svg
