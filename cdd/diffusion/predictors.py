"""Owns which (x, ε) make ẑ_s; each is predictor(online, real, teacher) -> Pair.

`online` is the adapted model's prediction, `real` the pair behind z_t, and `teacher` a thunk of the
frozen pretrained network's prediction, so that the others never evaluate it.
"""

from collections.abc import Callable

from cdd.diffusion.process import Pair


def prev(online: Pair, real: Pair, teacher: Callable[[], Pair]) -> Pair:
  """Eq. 12, the partial real-value predictor: the predicted signal, the real noise."""
  return Pair(online.x, real.eps)


def ddim(online: Pair, real: Pair, teacher: Callable[[], Pair]) -> Pair:
  """Eq. 8: both as predicted."""
  return online


def teacher(online: Pair, real: Pair, teacher: Callable[[], Pair]) -> Pair:
  """Eq. 6 with the frozen network: the arm of Figure 5 that fails."""
  return teacher()


PREDICTORS = dict(ddim=ddim, prev=prev, teacher=teacher)
