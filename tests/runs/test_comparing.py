"""The page of several runs: what is best, what differs, and the same examples side by side."""

import json
import re

import numpy as np
import pytest

from cdd.core.errors import UserError
from cdd.reports import comparison, examples
from cdd.runs import comparing

CONFIG = dict(
  name='toy',
  seed=0,
  steps=200,
  method=dict(name='conditional', x_weight=4.0),
  log=dict(every=10),
  data=dict(held_out=dict(name='scenes', size=16), task=dict(name='depth')),
)
TRUTH = np.random.default_rng(0).uniform(size=(3, 16, 16, 3)).astype(np.float32)


def row(steps, *, method='ours', count=128, **values):
  fields = dict(method=method, steps=steps, sampler='consistency', updates=200, count=count)
  return dict(fields, seconds_per_image=0.01, lpips=0.3, psnr=20.0) | values


def run(folder, rows, *, truth=TRUTH, **changes):
  """The folder of a run that measured these rows."""
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(CONFIG | changes))
  log = [dict(step=step, loss=1 / step, goodput=0.5) for step in range(1, 300)]
  (folder / 'log.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in log))
  if rows:
    (folder / 'metrics.json').write_text(json.dumps(rows))
    shown = {('ours', each['steps']): 0.5 * truth for each in rows if each['steps']}
    examples.write(folder / 'pictures', 'ours', shown, dict(image=truth))
  return str(folder)


def page(folders, tmp_path):
  """The page as lists: (paragraphs, table cells by line, notes, headings, alt texts)."""
  comparing.compare(folders, tmp_path / 'page.html')
  text = (tmp_path / 'page.html').read_text()
  assert 'http' not in text and 'src="data:image/webp' in text or '<img' not in text
  lines = re.findall(r'<tr[^>]*>(.*?)</tr>', text)
  cells = [re.findall(r'<t[dh][^>]*>(.*?)</t[dh]>', line) for line in lines]
  return dict(
    said=re.findall(r'<p class="finding">(.*?)</p>', text),
    cells=cells,
    notes=re.findall(r'<li>(.*?)</li>', text),
    headings=re.findall(r'<h2>(.*?)</h2>', text),
    alts=re.findall(r'alt="([^"]*)"', text),
  )


def test_the_best_at_each_number_of_steps_is_bold_and_said(tmp_path):
  one = run(tmp_path / 'one', [row(1, lpips=0.5), row(4, lpips=0.2), row(None, method='truth')])
  two = run(tmp_path / 'two', [row(1, lpips=0.4, psnr=18.0), row(4, lpips=0.25, psnr=20.0)])
  found = page([one, two], tmp_path)
  table = {tuple(line[:2]): line[5:7] for line in found['cells'] if len(line) > 7}
  assert table['one', '1'] == ['0.500', '<b>20.00</b>']
  assert table['two', '1'] == ['<b>0.400</b>', '18.00']
  assert table['one', '4'][0] == '<b>0.200</b>' and ('truth', '–') in table
  assert found['said'] == [
    'At 1 step two is best in LPIPS (0.400); one is best in PSNR (20.00).',
    'At 4 steps one is best in LPIPS (0.200).',  # In PSNR both are.
  ]


def test_only_settings_that_differ_are_listed(tmp_path):
  one = run(tmp_path / 'one', [row(1)], log=dict(every=5), name='other')
  two = run(tmp_path / 'two', [row(1)], seed=3, method=dict(name='finetune'))
  cells = page([one, two], tmp_path)['cells']
  at = cells.index(['setting', 'one', 'two'])
  assert cells[at + 1 : at + 4] == [
    ['method.name', 'conditional', 'finetune'],
    ['method.x_weight', '4.0', '–'],
    ['seed', '0', '3'],
  ]


def test_other_examples_and_other_numbers_of_them_are_said_and_are_never_best(tmp_path):
  one = run(tmp_path / 'one', [row(1, lpips=0.5)])
  few = run(tmp_path / 'few', [row(1, lpips=0.1, count=8)])
  other = run(tmp_path / 'other', [row(1, lpips=0.1)], truth=TRUTH[::-1])
  two = run(tmp_path / 'two', [row(1, lpips=0.4)])
  found = page([one, few, other, two], tmp_path)
  table = {line[0]: line[5] for line in found['cells'] if len(line) > 7}
  assert table['few'] == table['other'] == '0.100' and table['two'] == '<b>0.400</b>'
  assert 'few was measured on another number of held-out examples than one.' in found['notes']
  assert 'other was measured on other held-out examples than one.' in found['notes']
  (alt,) = found['alts']
  assert 'Columns: one, few, two, truth.' in alt


def test_a_run_that_was_not_measured_is_compared_by_its_curves(tmp_path):
  one, two = (run(tmp_path / name, []) for name in ('one', 'two'))
  found = page([one, two], tmp_path)
  assert found['notes'] == [f'{name} has not been measured yet.' for name in ('one', 'two')]
  assert found['headings'] == ['Training', 'Speed at the end of the log']


def test_a_long_log_is_drawn_as_means_of_its_neighbours():
  log = [dict(step=step, loss=step % 2) for step in range(1, 601)] + [dict(step=3, loss=np.nan)]
  points = np.array(comparison.curve(log, 'loss'))
  assert len(points) == comparison.POINTS
  np.testing.assert_allclose(points[:, 1], 0.5)
  np.testing.assert_allclose(points[:, 0], 5.5 + 10 * np.arange(comparison.POINTS))


def test_a_run_has_one_colour_in_all_charts_of_a_page(tmp_path):
  one = run(tmp_path / 'one', [row(1)])
  two = run(tmp_path / 'two', [row(1, ssim=0.5)])
  comparing.compare([one, two], tmp_path / 'page.html')
  charts = re.findall(
    r'<figcaption>(.*?)</figcaption>(.*?)</figure>', (tmp_path / 'page.html').read_text()
  )
  colour = lambda drawn: re.findall(r'fill="(#\w+)">two<', drawn)
  colours = {title: colour(drawn) for title, drawn in charts}
  assert (
    colours['SSIM over sampling steps; higher is better']
    and len({*map(tuple, colours.values())}) == 1
  )


def test_runs_of_one_name_are_told_apart_by_the_folder_around_them(tmp_path):
  assert comparing.named(['a/run', 'b/run', 'c']) == ['a/run', 'b/run', 'c']
  with pytest.raises(UserError, match='The same folder is given twice'):
    comparing.named(['a', 'a'])


def test_what_cannot_be_compared_is_named(tmp_path):
  one = run(tmp_path / 'one', [row(1)])
  with pytest.raises(UserError, match='Two runs or more are compared, and 1 were given'):
    comparing.compare([one], tmp_path / 'page.html')
  with pytest.raises(UserError, match=r'nowhere is no run \(config.json, log.jsonl\) and no eval'):
    comparing.compare([one, str(tmp_path / 'nowhere')], tmp_path / 'page.html')
