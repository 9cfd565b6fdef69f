import pytest

from cdd.metrics import METRICS
from cdd.metrics.psnr import PSNR
from cdd.reports import finding

NAME = 'the undistilled model'


def test_a_finding_says_at_which_steps_it_is_ahead_and_behind_in_which_metric(rows):
  ours = dict(lpips=(0.3, 0.2, 0.28, 0.3), frechet=(90.0, 95.0, 99.0, 101.0))
  found = finding.sentence(
    [
      *(
        rows('ours', steps, psnr=19.0, lpips=ours['lpips'][i], frechet=ours['frechet'][i])
        for i, steps in enumerate((1, 2, 4, 8))
      ),
      *(rows('undistilled (200 updates)', steps) for steps in (1, 2, 4, 8, 50)),
    ],
    'ours',
    'undistilled (200 updates)',
    NAME,
  )
  assert found == (
    'At 200 updates each, ours is ahead of the undistilled model in LPIPS at 2 and 4 steps and '
    'in Fréchet at 1, 2 and 4 steps; behind it in PSNR at 1, 2, 4 and 8 steps and in Fréchet at 8 '
    'steps; level with it in LPIPS at 1 and 8 steps and in SSIM at 1, 2, 4 and 8 steps (at 4 '
    'steps: LPIPS 0.280 against 0.300 and Fréchet 99.00 against 100.00).'
  )


def test_what_happens_most_often_comes_first(rows):
  pair = [rows('ours', 1, psnr=21.0, lpips=0.4, frechet=200.0), rows('rival', 1)]
  found = finding.sentence(pair, 'ours', 'rival', NAME)
  assert found.startswith('At 200 updates each, ours is behind the undistilled model in LPIPS and ')
  assert '; ahead of it in PSNR at 1 step; level with it in SSIM at 1 step (at 1 step: ' in found


def test_a_finding_says_plainly_that_the_numbers_of_updates_differ(rows):
  pair = [rows('ours', 4), rows('rival', 4, updates=800, lpips=0.2)]
  found = finding.sentence(pair, 'ours', 'rival', NAME)
  assert found.startswith('The numbers of updates differ: ours after 200 is ')
  assert 'behind the undistilled model after 800 in LPIPS at 4 steps; level' in found
  assert 'differ' not in finding.sentence(
    [pair[0], dict(pair[1], updates=200)], 'ours', 'rival', ''
  )


@pytest.mark.parametrize('name', [*METRICS])
def test_a_finding_is_reversed_where_higher_is_better(rows, name):
  without = METRICS.keys() - {name}
  words = {}
  for mine, its in ((1.0, 2.0), (2.0, 1.0)):
    pair = [rows('ours', 4, **{name: mine}), rows('rival', 4, **{name: its})]
    pair = [{key: row[key] for key in row if key not in without} for row in pair]
    words[mine] = finding.sentence(pair, 'ours', 'rival', NAME)
  lower_wins = name in ('lpips', 'frechet', 'depth')
  label = METRICS[name].label
  assert f'is ahead of {NAME} in {label} at 4 steps (' in words[1.0 if lower_wins else 2.0]
  assert f'is behind {NAME} in {label} at 4 steps (' in words[2.0 if lower_wins else 1.0]


def test_the_values_are_those_of_the_largest_common_number_of_steps_up_to_four(rows):
  ours = [rows('ours', steps) for steps in (1, 2, 4, 8)]
  for steps, chosen in (((1, 2, 8, 4, 50), 4), ((1, 2, 8), 2), ((8, 50), 8)):
    rival = [rows('rival', n) for n in steps]
    found = finding.sentence(ours + rival, 'ours', 'rival', NAME)
    assert f'(at {chosen} step' in found
    pairs = finding.at_same_steps(ours + rival, 'ours', 'rival')
    assert [[row['steps'] for row in pair] for pair in pairs] == [
      [n, n] for n in sorted({*steps} - {50})
    ]
  alone = finding.sentence([*ours, rows('rival', 50)], 'ours', 'rival', NAME)
  assert alone.startswith('At 4 steps ours') and alone.endswith('was not measured beside it.')


def test_numbers_of_examples_that_differ_leave_no_verdict(rows):
  pair = [rows('ours (shipped)', 4, count=32), rows('rival', 4, lpips=0.1)]
  found = finding.sentence(pair, 'ours (shipped)', 'rival', NAME)
  assert 'ahead' not in found and 'behind' not in found
  assert 'ours (shipped; 200 updates, measured on 32 examples)' in found
  assert '(200 updates, measured on 128 examples)' in found


def test_without_a_rival_a_finding_gives_the_numbers_and_says_that_it_is_missing(rows):
  found = finding.sentence([rows('ours', 1), rows('bicubic', None)], 'ours', 'rival', NAME)
  assert found.startswith('At 1 step ours (200 updates, measured on 128 examples) measures LPIPS')
  assert found.endswith('the undistilled model was not measured beside it.')
  assert 'undistilled' not in finding.sentence([rows('ours', 1)], 'ours', None, '')
  assert finding.sentence([rows('bicubic', None)], 'ours', None, '') == ''


def test_rows_that_lack_a_newer_metric_are_compared_by_the_others(rows, monkeypatch):
  monkeypatch.setitem(METRICS, 'toy', PSNR._replace(label='Toy'))
  pair = [rows('ours', 4, toy=3.0), rows('rival', 4)]
  assert 'Toy' not in finding.sentence(pair, 'ours', 'rival', NAME)
  pair[1]['toy'] = 2.0
  assert f'ahead of {NAME} in Toy at 4 steps' in finding.sentence(pair, 'ours', 'rival', NAME)


def test_rows_that_share_no_metric_are_not_compared(rows):
  toy = {key: value for key, value in rows('ours', 4).items() if key not in METRICS}
  found = finding.sentence([dict(toy, kept=0.5), rows('rival', 4)], 'ours', 'rival', NAME)
  assert found.endswith(
    'measures Kept (dB) 0.50; the undistilled model was not measured beside it.'
  )
