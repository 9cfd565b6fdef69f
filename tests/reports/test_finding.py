import pytest

from cdd.metrics import METRICS
from cdd.metrics.psnr import PSNR
from cdd.reports import finding

NAME = 'the undistilled model'


def test_a_finding_says_ahead_and_behind_with_both_numbers_and_both_budgets(rows):
  found = finding.sentence(
    [
      rows('ours', 4, lpips=0.338, psnr=22.0, frechet=523.0),
      rows('finetune (shipped)', 4, updates=800, lpips=0.314, psnr=21.0, frechet=500.0),
    ],
    'ours',
    'finetune (shipped)',
    NAME,
  )
  assert found == (
    'At 4 steps ours (200 updates) is behind the undistilled model (800 updates) in '
    'LPIPS (0.338 against 0.314) and Fréchet (523.00 against 500.00); ahead of it in '
    'PSNR (22.00 against 21.00); level with it in SSIM (0.500 against 0.500).'
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
  assert 'is ahead of' in words[1.0 if lower_wins else 2.0]
  assert 'is behind' in words[2.0 if lower_wins else 1.0]
  assert all('in all that was measured' in text for text in words.values())


def test_a_finding_is_about_the_largest_common_number_of_steps_up_to_four(rows):
  ours = [rows('ours', steps) for steps in (1, 2, 4, 8)]
  for steps, chosen in (((1, 2, 4, 8, 50), 4), ((1, 2, 8), 2), ((8, 50), 8), ((50,), None)):
    rival = [rows('rival', n) for n in steps]
    pair = finding.at_same_steps(ours + rival, 'ours', 'rival')
    assert [row['steps'] for row in pair] == [chosen] * (2 if chosen else 0)


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
  assert 'ahead of it in Toy (3.00 against 2.00)' in finding.sentence(pair, 'ours', 'rival', NAME)
