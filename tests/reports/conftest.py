"""Rows as the evaluation of a run makes them."""

import pytest

LOW = dict(lpips=0.3, psnr=20.0, ssim=0.5, frechet=100.0)


@pytest.fixture
def rows():
  """A row by label, steps, and the metrics that differ from LOW."""

  def row(method, steps, *, updates=200, count=128, seconds=0.01, **values):
    fields = dict(method=method, steps=steps, sampler='ddim' if steps else None)
    return dict(
      fields, updates=updates, count=count, seconds_per_image=seconds, **{**LOW, **values}
    )

  return row
