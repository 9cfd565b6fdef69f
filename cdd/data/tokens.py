"""Owns tokens: CLIP's byte-pair encoding in the layouts of a diffusers folder's `tokenizer/`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from cdd.core.errors import UserError

START, END = '<|startoftext|>', '<|endoftext|>'
# The tokens that a tokenizer_config.json names, and CLIP's defaults.
NAMED = dict(unk_token=END, bos_token=START, eos_token=END, pad_token=END)
SUFFIXES = r"'s|'t|'re|'ve|'m|'ll|'d"
WORDS = rf'<\|startoftext\|>|<\|endoftext\|>|{SUFFIXES}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+'


def _bare(model) -> tokenizers.Tokenizer:
  """CLIP's normalisation and splitting around a model (transformers' CLIPTokenizer)."""
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r'\s+'), ' '), normalizers.Lowercase()]
  )
  split = pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior='removed', invert=True)
  bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
  return tokenizer


class Tokenizer:
  """Text -> int32 [n]: start, the text cut to fit, end, padding; transformers' CLIPTokenizer."""

  def __init__(self, folder: Path, positions: int | None = None):
    """`folder` holds tokenizer_config.json, and tokenizer.json or vocab.json and merges.txt.

    Args:
      positions: those of the text encoder, which n does not exceed.

    Raises:
      UserError: one of them is missing or broken.
    """
    folder = Path(folder)
    settings = _json(folder / 'tokenizer_config.json')
    tokens, names = _special(folder, settings)
    try:
      self._tokenizer = _bare(_model(folder, names['unk_token']))
    except UserError:
      raise
    except Exception as error:  # The library raises no narrower class.
      raise UserError(f'The tokenizer folder {folder} cannot be read: {error}') from error
    self._tokenizer.add_tokens(tokens)
    self.size = self._tokenizer.get_vocab_size()
    self.length = _length(folder, settings, positions)
    named = (names[name] for name in ('bos_token', 'eos_token', 'pad_token'))
    self._start, self._end, self._pad = map(self._tokenizer.token_to_id, named)

  def __call__(self, text: str) -> np.ndarray:
    return self.framed(self.ids(text)[: self.length - 2])

  def ids(self, text: str) -> list[int]:
    """The tokens of all of a text, without start and end."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def framed(self, ids: list[int]) -> np.ndarray:
    """At most n - 2 tokens between start and end, padded, int32 [n]."""
    ids = [self._start, *ids, self._end]
    return np.array(ids + [self._pad] * (self.length - len(ids)), np.int32)

  def cut(self, text: str, room: int | None = None) -> str:
    """The end of a text that does not fit; '' if all of it does.

    Args:
      room: the tokens that fit; n - 2 if None.
    """
    room = self.length - 2 if room is None else max(room, 0)
    offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets[room:]
    return text[offsets[0][0] :] if offsets else ''


class Reader:
  """text -> dict(tokens=..., tokens_2=...) of the folders 'tokenizer', 'tokenizer_2'.

  Without a folder, for runs without a text encoder, the dict is empty.
  """

  def __init__(self, folders: Mapping[str, Path], positions: Mapping[str, int | None]):
    """`positions`: 'tokenizer' -> those of its text encoder."""
    self.tokenizers = {
      name.replace('tokenizer', 'tokens'): Tokenizer(folder, positions.get(name))
      for name, folder in folders.items()
    }

  def __call__(self, text: str) -> dict[str, np.ndarray]:
    return {name: tokenize(text) for name, tokenize in self.tokenizers.items()}

  def cut(self, text: str) -> str:
    """The end of a text that some tokenizer cuts off; '' if none does."""
    return max((tokenize.cut(text) for tokenize in self.tokenizers.values()), key=len, default='')


def _length(folder: Path, settings: Mapping, positions: int | None) -> int:
  """`model_max_length`, at most the text encoder's positions.

  Where a file has none, transformers writes null or 1e30.
  """
  length = settings.get('model_max_length')
  known = isinstance(length, int | float) and length >= 2
  if length is not None and not known:
    path = folder / 'tokenizer_config.json'
    raise UserError(f'{path}: model_max_length is {length!r}; it should be a number, 2 or more.')
  if not known and positions is None:
    raise UserError(f'{folder / "tokenizer_config.json"} has no model_max_length.')
  return int(min(length if known else positions, positions or length))


def _json(path: Path) -> dict:
  if not path.exists():
    raise UserError(f'The tokenizer folder {path.parent} has no {path.name}.')
  try:
    return json.loads(path.read_text('utf-8'))
  except json.JSONDecodeError as error:
    raise UserError(f'{path} is not JSON: {error}') from error


def _model(folder: Path, unknown: str) -> models.BPE:
  """The vocabulary and the merges: of tokenizer.json, or of the two files of older folders."""
  settings = dict(unk_token=unknown, end_of_word_suffix='</w>')
  if (folder / 'tokenizer.json').exists():
    model = _json(folder / 'tokenizer.json')['model']
    pairs = [merge.split(' ') if isinstance(merge, str) else merge for merge in model['merges']]
    return models.BPE(model['vocab'], list(map(tuple, pairs)), **settings)
  for name in ('vocab.json', 'merges.txt'):
    if not (folder / name).exists():
      raise UserError(f'The tokenizer folder {folder} has no {name} and no tokenizer.json.')
  return models.BPE.from_file(str(folder / 'vocab.json'), str(folder / 'merges.txt'), **settings)


def _special(folder: Path, settings: dict) -> tuple[list[tokenizers.AddedToken], dict[str, str]]:
  """The tokens that are never split, and which of them is 'bos_token', 'pad_token', ...

  They are listed in tokenizer_config.json; in older folders special_tokens_map.json goes before it
  and tokenizer.json may list more.
  """
  added = list(settings.get('added_tokens_decoder', {}).values())
  named = NAMED | {name: settings[name] for name in NAMED if settings.get(name)}
  if 'added_tokens_decoder' not in settings:
    if (folder / 'special_tokens_map.json').exists():
      stored = _json(folder / 'special_tokens_map.json')
      named |= {name: stored[name] for name in NAMED if stored.get(name)}
    if (folder / 'tokenizer.json').exists():
      added += _json(folder / 'tokenizer.json').get('added_tokens', [])
  fields = ('content', 'single_word', 'lstrip', 'rstrip', 'normalized')

  def as_dict(token):
    return dict(content=token) if isinstance(token, str) else token

  tokens = {}
  for token in map(as_dict, [*added, *named.values()]):
    settings = {name: token[name] for name in fields if name in token}
    special = token.get('special', True)
    tokens.setdefault(token['content'], tokenizers.AddedToken(**settings, special=special))
  return list(tokens.values()), {name: as_dict(token)['content'] for name, token in named.items()}


def train(captions: Iterable[str], folder: Path, *, vocab_size: int, length: int) -> None:
  """Learns a vocabulary from captions and writes the folder that `Tokenizer` reads."""
  tokenizer = _bare(models.BPE(unk_token=END, end_of_word_suffix='</w>'))
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size - len(letters) - 2,
    end_of_word_suffix='</w>',
    initial_alphabet=letters,
    show_progress=False,
  )
  tokenizer.train_from_iterator(captions, trainer)
  model = json.loads(tokenizer.to_str())['model']
  # CLIP's own order: the bytes, the bytes that end a word, the merges, the special tokens.
  names = letters + [letter + '</w>' for letter in letters]
  names += [token for token in sorted(model['vocab'], key=model['vocab'].get) if token not in names]
  vocab = {token: number for number, token in enumerate([*names, START, END])}
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'vocab.json').write_text(json.dumps(vocab, ensure_ascii=False, separators=(',', ':')))
  merges = [merge if isinstance(merge, str) else ' '.join(merge) for merge in model['merges']]
  (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]) + '\n')
  special = dict(bos_token=START, eos_token=END, unk_token=END, pad_token=END)
  settings = dict(special, tokenizer_class='CLIPTokenizer', model_max_length=length)
  (folder / 'tokenizer_config.json').write_text(json.dumps(settings, indent=2) + '\n')
  (folder / 'special_tokens_map.json').write_text(json.dumps(special, indent=2) + '\n')
