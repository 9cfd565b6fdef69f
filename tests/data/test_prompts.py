"""The weights of words in a prompt, and the chunks of a long one."""

import numpy as np
import pytest

from cdd.core.errors import UserError
from cdd.data import prompts, tokens
from cdd.data.prompts import Style, parse
from cdd.data.scenes import Scenes

LENGTH = 12
TEXT = (
  'a red ball on a white floor in front of a blue box and a green cone at the left of the table'
)


@pytest.fixture(scope='module')
def reader(tmp_path_factory):
  folder = tmp_path_factory.mktemp('words')
  captions = [Scenes(size=8)[index]['caption'] for index in range(20)]
  tokens.train(captions, folder, vocab_size=600, length=LENGTH)
  return tokens.Reader(dict(tokenizer=folder), {})


@pytest.mark.parametrize(
  ('prompt', 'expected'),
  [
    ('a red ball', [('a red ball', 1)]),
    ('', [('', 1)]),
    ('a (red) ball', [('a ', 1), ('red', 1.1), (' ball', 1)]),
    ('a [red] ball', [('a ', 1), ('red', 1 / 1.1), (' ball', 1)]),
    ('(red:1.3)', [('red', 1.3)]),
    ('(red: .5 )', [('red', 0.5)]),
    ('(red:-1)', [('red', -1)]),
    ('((red:1.3)) ball', [('red', 1.1 * 1.3), (' ball', 1)]),
    ('[(red)]', [('red', 1.0)]),
    ('(a [b] c:2)', [('a ', 2), ('b', 2 / 1.1), (' c', 2)]),
    (r'a \(red\) \[ball\] \\', [('a (red) [ball] \\', 1)]),
    (r'(a \(b\):1.5)', [('a (b)', 1.5)]),
    ('(open', [('open', 1.1)]),
    ('((open', [('open', 1.1**2)]),
    ('[open', [('open', 1 / 1.1)]),
    ('shut) it] :1.3)', [('shut) it] :1.3)', 1)]),
    ('(un)(needed)', [('unneeded', 1.1)]),
    ('10:30 (at: night)', [('10:30 ', 1), ('at: night', 1.1)]),
    ('a\nline (b)', [('a\nline ', 1), ('b', 1.1)]),
  ],
)
def test_brackets_weight_words_as_in_the_web_ui(prompt, expected):
  got = parse(prompt)
  assert [part.text for part in got] == [text for text, _ in expected]
  np.testing.assert_allclose([part.weight for part in got], [weight for _, weight in expected])


def test_a_weight_that_is_no_number_is_named():
  with pytest.raises(UserError, match=r"weight '1.2.3' in the prompt '\(red:1.2.3\)' is no number"):
    parse('(red:1.2.3)')


def test_plain_prompts_are_what_the_reader_makes_of_them(reader):
  for style in (Style(), Style(long=True)):
    got = prompts.read(reader, TEXT[:20], prompts.fitted(reader, [TEXT[:20]], style))
    assert got.keys() == {'tokens'}
    np.testing.assert_array_equal(got['tokens'], reader(TEXT[:20])['tokens'])
  cut = prompts.read(reader, TEXT, prompts.fitted(reader, [TEXT], Style()))
  np.testing.assert_array_equal(cut['tokens'], reader(TEXT)['tokens'])
  assert prompts.cut(reader, TEXT, Style()) == reader.cut(TEXT) != ''


def test_a_long_prompt_is_chunks_each_with_its_start_and_its_end(reader):
  (tokenizer,) = reader.tokenizers.values()
  style = prompts.fitted(reader, ['a', TEXT], Style(long=True))
  got = prompts.read(reader, TEXT, style)['tokens']
  empty = tokenizer('')
  start, end = empty[:2]
  assert got.shape == (style.chunks, LENGTH) and got.dtype == np.int32 and style.chunks >= 3
  assert (got[:, 0] == start).all() and (got[:-1, -1] == end).all()
  ids = [token for row in got for token in row if token not in (start, end)]
  assert ids == tokenizer.ids(TEXT)
  short = prompts.read(reader, 'a', style)['tokens']
  assert np.array_equal(short[0], tokenizer('a')) and (short[1:] == empty).all()
  assert prompts.cut(reader, TEXT, style) == ''


def test_every_token_has_the_weight_of_its_words_and_all_others_have_1(reader):
  (tokenizer,) = reader.tokenizers.values()
  red, rest = tokenizer.ids('red ball'), tokenizer.ids(' on a table')
  style = prompts.fitted(reader, ['(red ball:1.5) on a table'], Style(weighted=True))
  got = prompts.read(reader, '(red ball:1.5) on a table', style)
  kept = [*red, *rest][: LENGTH - 2]
  assert got['tokens'].shape == got['weights'].shape == (1, LENGTH)
  assert got['tokens'][0, 1 : len(kept) + 1].tolist() == kept
  expected = np.ones(LENGTH, np.float32)
  expected[1 : len(red) + 1] = 1.5
  np.testing.assert_array_equal(got['weights'][0], expected)
  style = prompts.fitted(reader, [f'{TEXT} (red:2)'], Style(long=True, weighted=True))
  got = prompts.read(reader, f'{TEXT} (red:2)', style)
  assert (got['weights'] != 1).sum() == len(tokenizer.ids('red'))
  assert got['weights'][got['tokens'] == tokenizer.ids(' red')[0]].max() == 2


def test_the_end_of_a_weighted_prompt_that_does_not_fit_is_named(reader):
  lost = prompts.cut(reader, f'(a red ball:1.2) {TEXT} (red:2)', Style(weighted=True))
  assert lost.endswith('of the table red') and 'a red ball' not in lost
  assert prompts.cut(reader, '(a:1.2) [b]', Style(weighted=True)) == ''
  assert prompts.cut(reader, f'(a:2) {TEXT}', Style(long=True, weighted=True, chunks=9)) == ''
