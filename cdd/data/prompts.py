"""Owns prompts beyond plain text: those longer than the text encoder reads, and weighted words.

The syntax, and what it does, are those of AUTOMATIC1111's web UI: (words) count 1.1 times as much,
[words] 1/1.1, (words:1.3) 1.3, nested ones multiply, and a backslash makes a bracket a letter.
Prompt schedules and BREAK are not read.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cdd.core.errors import UserError
from cdd.data.tokens import Reader, Tokenizer

MORE = 1.1  # The weight of a pair of brackets.
PIECES = re.compile(
  r'\\(?P<literal>[\\()\[\]])|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|(?P<bracket>[()\[\]])'
  r'|[^\\()\[\]:]+|.',
  re.DOTALL,
)


class Style(NamedTuple):
  """How prompts are read.

  Attributes:
    long: whether one that is longer than the text encoder reads is read in chunks.
    weighted: whether brackets weight words.
    chunks: how many chunks a prompt is made of; the last ones may be empty.
  """

  long: bool = False
  weighted: bool = False
  chunks: int = 1


PLAIN = Style()


class Fragment(NamedTuple):
  """A part of a prompt, all of one weight."""

  text: str
  weight: float = 1.0


def parse(prompt: str) -> list[Fragment]:
  """The weighted parts of a prompt, neighbours of one weight joined; a bracket may stay open.

  Raises:
    UserError: a weight is no number.
  """
  texts, weights, opened = [], [], {'(': [], '[': []}

  def close(bracket: str, factor: float) -> None:
    for index in range(opened[bracket].pop(), len(texts)):
      weights[index] *= factor

  for piece in PIECES.finditer(prompt):
    bracket = piece['bracket']
    if bracket in opened:
      opened[bracket].append(len(texts))
    elif piece['weight'] and opened['(']:
      close('(', number(piece['weight'], prompt))
    elif bracket == ')' and opened['(']:
      close('(', MORE)
    elif bracket == ']' and opened['[']:
      close('[', 1 / MORE)
    else:
      texts.append(piece['literal'] or piece[0])
      weights.append(1.0)
  for bracket, factor in (('(', MORE), ('[', 1 / MORE)):
    while opened[bracket]:
      close(bracket, factor)
  return joined(map(Fragment, texts, weights))


def number(text: str, prompt: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise UserError(f'The weight {text!r} in the prompt {prompt!r} is no number.') from None


def joined(fragments: Iterable[Fragment]) -> list[Fragment]:
  out = []
  for fragment in fragments:
    if out and out[-1].weight == fragment.weight:
      fragment = Fragment(out.pop().text + fragment.text, fragment.weight)
    out.append(fragment)
  return out or [Fragment('')]


def of(prompt: str, style: Style) -> list[Fragment]:
  """The parts of a prompt in this style."""
  return parse(prompt) if style.weighted else [Fragment(prompt)]


def room(tokenizer: Tokenizer) -> int:
  """The tokens of a text that fit between its start and its end."""
  return tokenizer.length - 2


def fitted(reader: Reader, prompts: Iterable[str], style: Style) -> Style:
  """The style with as many chunks as the longest of the prompts needs; one if they are cut."""
  needed = [1]
  for prompt in prompts if style.long else ():
    for tokenizer in reader.tokenizers.values():
      count = sum(len(tokenizer.ids(part.text)) for part in of(prompt, style))
      needed.append(math.ceil(count / room(tokenizer)))
  return style._replace(chunks=max(needed))


def cut(reader: Reader, prompt: str, style: Style) -> str:
  """The end of a prompt that does not fit; '' if all of it does."""
  if not style.weighted:
    return '' if style.long else reader.cut(prompt)
  parts, ends = of(prompt, style), ['']
  for tokenizer in reader.tokenizers.values():
    left = style.chunks * room(tokenizer)
    for index, part in enumerate(parts):
      lost = tokenizer.cut(part.text, left)
      left -= len(tokenizer.ids(part.text))
      if lost:
        ends.append(lost + ''.join(later.text for later in parts[index + 1 :]))
        break
  return max(ends, key=len)


def read(reader: Reader, prompt: str, style: Style) -> dict[str, np.ndarray]:
  """A prompt as the text encoders read it.

  Returns:
    What `reader` makes of it; in chunks or with weights `tokens` int32 [chunks, n] and, if it is
    weighted, `weights` float32 [chunks, n], for each tokenizer. Start, end and padding weigh 1.
  """
  if style.chunks == 1 and not style.weighted:
    return reader(prompt)
  out = {}
  for name, tokenizer in reader.tokenizers.items():
    pairs = [
      (token, part.weight) for part in of(prompt, style) for token in tokenizer.ids(part.text)
    ]
    size = room(tokenizer)
    chunks = [pairs[start * size :][:size] for start in range(style.chunks)]
    out[name] = np.stack([tokenizer.framed([token for token, _ in chunk]) for chunk in chunks])
    if style.weighted:
      weights = np.ones(out[name].shape, np.float32)
      for row, chunk in zip(weights, chunks, strict=True):
        row[1 : len(chunk) + 1] = [weight for _, weight in chunk]
      out[name.replace('tokens', 'weights')] = weights
  return out
