"""Our tokenizer beside transformers' CLIPTokenizer, on every layout of folder that people have."""

import json

import numpy as np
import pytest
import tokenizers
import transformers

from cdd import assets
from cdd.core.errors import UserError
from cdd.data import tokens

CAPTIONS = (
  "A photograph of the dog's ball: it's 123 metres away, isn't it?",
  'they’ll paint a café, déjà vu, naïve, in 4k; 日本語のテキスト and emoji 🐈‍⬛!',
  'hello world! hello, worlds... <html> &amp; "quoted" text (wide:1.3)',
) * 3
TEXTS = (
  '',
  ' ',
  'a',
  'Hello, World!',
  'hello!!!! world ! a!b',
  "It's we're I'll they'd you've 'tis don't I'm 'S",
  'numbers 1234567890 3.14 1,000 ½ ² Ⅷ ٣',
  'multiple   spaces\tand\nlines\r\n and\u00a0no-break\u3000wide',
  'café cafe\u0301 déjà İstanbul ẞ ﬁ Å Å K',
  '日本語のテキスト 中文 한국어 العربية עברית हिन्दी',
  'emoji 🐈‍⬛👩‍👩‍👧‍👦 🇫🇷 ✨ and \U0001f9ff',
  '<b>html</b> &amp; &lt;br/&gt; "quotes" `code` {x} [y] (z:1.3)',
  'inside <|endoftext|> the <|startoftext|> text',
  '<|ENDOFTEXT|> <|endoftext|><|endoftext|> a<|startoftext|>b < |endoftext| >',
  'zero\u200bwidth \ufeff bom \x00 nul \x7f del',
  'very long ' * 200,
  '!' * 100,
  'under_score semi;colon a/b\\c #tag @me $5 50% ^ ~ | = + *',
)
# pad_token of the folders that people have: SD 1.x, and SD 2.x or SDXL's tokenizer_2.
PADS = dict(sd1=tokens.END, sd2='!')


def write(folder, pad, *, layout):
  """A small vocabulary in one of four layouts.

  listed: vocab.json, merges.txt and added_tokens_decoder, as transformers 4 wrote.
  legacy: special tokens in special_tokens_map.json as dicts with `normalized`, as SD's own files.
  bare: special tokens as strings. single: only what transformers 5 saves.
  """
  tokens.train(CAPTIONS, folder, vocab_size=700, length=77)
  path = folder / 'tokenizer_config.json'
  settings = json.loads(path.read_text())
  vocab = json.loads((folder / 'vocab.json').read_text())
  settings['pad_token'] = pad
  dressed = lambda token: dict(
    content=token, single_word=False, lstrip=False, rstrip=False, normalized=token != pad
  )
  specials = {name: settings[name] for name in tokens.NAMED}
  if layout == 'listed':
    settings['added_tokens_decoder'] = {
      str(vocab[token]): dressed(token) | dict(special=True) for token in set(specials.values())
    }
    (folder / 'special_tokens_map.json').unlink()
  elif layout == 'legacy':
    specials = {name: dressed(token) for name, token in specials.items()} | dict(pad_token=pad)
    (folder / 'special_tokens_map.json').write_text(json.dumps(specials))
  else:
    (folder / 'special_tokens_map.json').write_text(json.dumps(specials))
  path.write_text(json.dumps(settings))
  if layout == 'single':
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    folder = folder.with_name(folder.name + '_single')
    theirs.save_pretrained(folder)
    assert sorted(p.name for p in folder.iterdir()) == ['tokenizer.json', 'tokenizer_config.json']
  return folder


@pytest.mark.parametrize('layout', ['listed', 'legacy', 'bare', 'single'])
@pytest.mark.parametrize('model', sorted(PADS))
def test_the_ids_are_those_of_transformers(model, layout, tmp_path):
  folder = write(tmp_path / model, PADS[model], layout=layout)
  theirs = transformers.CLIPTokenizer.from_pretrained(folder)
  ours = tokens.Tokenizer(folder)
  assert theirs.pad_token == PADS[model]
  settings = dict(padding='max_length', truncation=True, max_length=77)
  for text in TEXTS:
    assert ours(text).tolist() == theirs(text, **settings).input_ids, text
  assert len({tuple(ours(text)) for text in TEXTS}) == len(TEXTS) - 1  # '' and ' ' are one.


def test_the_vocabulary_merges_words_and_every_length_is_the_models(tmp_path):
  ours = tokens.Tokenizer(write(tmp_path / 'a', '!', layout='bare'))
  ids = ours('hello').tolist()
  start, end = ours.size - 2, ours.size - 1
  assert ids[0] == start and ids[2] == end  # One token for the word.
  assert len({ours(text).shape for text in TEXTS} | {(77,)}) == 1
  assert ours('very long ' * 200)[-1] == end
  assert ids[3:] == [ours._tokenizer.token_to_id('!')] * 74


def test_a_reader_names_the_tokens_of_each_folder(tmp_path):
  folders = dict(
    tokenizer=write(tmp_path / 'a', tokens.END, layout='bare'),
    tokenizer_2=write(tmp_path / 'b', '!', layout='bare'),
  )
  reader = tokens.Reader(folders, {})
  read = reader('hello')
  assert sorted(read) == ['tokens', 'tokens_2']
  for name, folder in folders.items():
    array = read[name.replace('tokenizer', 'tokens')]
    assert array.dtype == np.int32
    np.testing.assert_array_equal(array, tokens.Tokenizer(folder)('hello'))
  assert (read['tokens'] != read['tokens_2']).sum() == 74
  assert tokens.Reader({}, {})('hello') == {}
  assert reader.cut('hello') == tokens.Reader({}, {}).cut('hello') == ''


def test_the_end_of_a_long_text_is_what_the_tokens_lack(tmp_path):
  reader = tokens.Reader(
    dict(tokenizer=write(tmp_path / 'a', '!', layout='bare')), dict(tokenizer=12)
  )
  text = 'A red  ball on A TABLE, with a blue box beside it and more'
  cut = reader.cut(text)
  assert cut and text.endswith(cut)
  theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path / 'a')
  starts = theirs(text, return_offsets_mapping=True).offset_mapping
  assert len(text) - len(cut) == starts[11][0]  # After the start and ten tokens.


@pytest.mark.parametrize('given', [20, 1e30, None, 'missing'])
def test_a_tokenizer_is_no_longer_than_the_text_encoder(given, tmp_path):
  folder = write(tmp_path / 'a', '!', layout='bare')
  path = folder / 'tokenizer_config.json'
  settings = json.loads(path.read_text()) | dict(model_max_length=given)
  if given == 'missing':
    del settings['model_max_length']
  path.write_text(json.dumps(settings))
  assert tokens.Tokenizer(folder, 12)('hello').shape == (12,)
  if given in (None, 'missing'):
    with pytest.raises(UserError, match='tokenizer_config.json has no model_max_length'):
      tokens.Tokenizer(folder)


@pytest.mark.parametrize('given', ['77', 1, -3, True, [77]])
def test_a_length_that_is_none_is_named(given, tmp_path):
  folder = write(tmp_path / 'a', '!', layout='bare')
  path = folder / 'tokenizer_config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | dict(model_max_length=given)))
  with pytest.raises(UserError, match='model_max_length is .*; it should be a number, 2 or more'):
    tokens.Tokenizer(folder, 12)


@pytest.mark.parametrize(
  ('name', 'text', 'said'),
  [
    ('merges.txt', None, 'has no merges.txt'),
    ('vocab.json', None, 'has no vocab.json'),
    ('tokenizer_config.json', None, 'has no tokenizer_config.json'),
    ('tokenizer_config.json', '{"a', 'is not JSON'),
    ('vocab.json', '{"a', 'cannot be read'),
    ('merges.txt', '#version: 0.2\nq zzz\n', 'cannot be read'),
  ],
)
def test_a_broken_folder_is_named(name, text, said, tmp_path):
  folder = write(tmp_path / 'a', '!', layout='bare')
  if text is None:
    (folder / name).unlink()
  else:
    (folder / name).write_text(text)
  with pytest.raises(UserError, match=said):
    tokens.Tokenizer(folder)


def test_the_packaged_folder_reads_as_transformers_reads_it():
  folder = assets.PRIOR / 'tokenizer'
  theirs = transformers.CLIPTokenizer.from_pretrained(folder)
  settings = dict(padding='max_length', truncation=True)
  for text in (*TEXTS, 'a red ball on a table'):
    assert tokens.Tokenizer(folder)(text).tolist() == theirs(text, **settings).input_ids
  assert isinstance(theirs.backend_tokenizer, tokenizers.Tokenizer)
