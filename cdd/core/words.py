"""Owns how messages count things, and how they quote what users wrote: in one line."""


def counted(count: int, noun: str) -> str:
  """'1 image', '2 images'."""
  return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


def quoted(text: object, most: int = 80) -> str:
  """The beginning of a text as it is, with escapes if it is not printable."""
  text = str(text)
  text = text if len(text) <= most else text[:most] + '...'
  return text if text.isprintable() else ascii(text)[1:-1]
