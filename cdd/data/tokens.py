"""Owns tokens: CLIP's byte-pair encoding in the layout of a diffusers folder's `tokenizer/`."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from cdd.errors import UserError

START, END = '<|startoftext|>', '<|endoftext|>'
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


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
  """Text -> int32 [n]: start, the text cut to fit, end, padding."""

  def __init__(self, folder: Path):
    """`folder` holds vocab.json, merges.txt and tokenizer_config.json.

    Raises:
      UserError: one of them is missing.
    """
    folder = Path(folder)
    for name in ('vocab.json', 'merges.txt', 'tokenizer_config.json'):
      if not (folder / name).exists():
        raise UserError(f'The tokenizer folder {folder} has no {name}.')
    settings = json.loads((folder / 'tokenizer_config.json').read_text())
    model = models.BPE.from_file(
      str(folder / 'vocab.json'),
      str(folder / 'merges.txt'),
      unk_token=END,
      end_of_word_suffix='</w>',
    )
    self._tokenizer = _bare(model)
    self.size = self._tokenizer.get_vocab_size()
    self.length = int(settings['model_max_length'])
    pad = settings.get('pad_token', END)
    pad = pad['content'] if isinstance(pad, dict) else pad
    self._start, self._end, self._pad = map(self._tokenizer.token_to_id, (START, END, pad))

  def __call__(self, text: str) -> np.ndarray:
    ids = self._tokenizer.encode(text, add_special_tokens=False).ids[: self.length - 2]
    ids = [self._start, *ids, self._end]
    return np.array(ids + [self._pad] * (self.length - len(ids)), np.int32)


def none(text: str) -> np.ndarray:
  """No tokens, for runs without a text encoder."""
  return np.zeros((1,), np.int32)


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
  (folder / 'vocab.json').write_text(json.dumps(vocab, ensure_ascii=False))
  merges = [merge if isinstance(merge, str) else ' '.join(merge) for merge in model['merges']]
  (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]) + '\n')
  special = dict(bos_token=START, eos_token=END, unk_token=END, pad_token=END)
  settings = dict(special, tokenizer_class='CLIPTokenizer', model_max_length=length)
  (folder / 'tokenizer_config.json').write_text(json.dumps(settings, indent=2) + '\n')
  (folder / 'special_tokens_map.json').write_text(json.dumps(special, indent=2) + '\n')
