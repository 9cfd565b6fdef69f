"""Owns examples encoded ahead by `cdd.prepare` as a source."""

from collections.abc import Sequence
from pathlib import Path

from cdd.data.prepared import Prepared


def prepared(
  needs: Sequence[str] = (),
  /,
  *,
  path: str,
  sample_posterior: bool = False,
  made_of: str | None = None,
):
  """Examples as `python -m cdd.prepare` wrote them to a folder.

  What the task needs was read when they were written.

  Args:
    sample_posterior: draws an image's latents from the autoencoder's posterior, anew in every
      epoch, as Stable Diffusion was trained; False takes its mode.
    made_of: the place of the data that the run takes them for, which is compared with the one that
      they were made of (`runs.prepare.check`); None compares nothing.

  Raises:
    UserError: the folder holds no prepared examples, or not all of them.
  """
  del needs, made_of
  return Prepared(Path(path), sample_posterior)
