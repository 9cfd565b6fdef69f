"""A source: striped pictures."""

import numpy as np

from cdd.data.sources.needs import refuse_others


class Stripes:
  def __init__(self, size: int, length: int):
    self._size, self._length = size, length

  def __len__(self):
    return self._length

  def __getitem__(self, index):
    wave = 0.5 + 0.5 * np.sin((1 + index % 7) * np.arange(self._size, dtype=np.float32))
    image = np.broadcast_to(wave[None, :, None], (self._size, self._size, 3)).copy()
    return dict(image=image, caption=f'{1 + index % 7} stripes')


def stripes(needs=('image',), /, *, size: int, length: int = 1000):
  """Striped pictures, of one of seven widths each."""
  refuse_others(needs, ('image',), 'stripes')
  return Stripes(size, length)
