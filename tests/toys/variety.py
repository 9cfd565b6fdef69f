"""A metric: how far the images of a batch are from its first."""

import numpy as np

from cdd.metrics.metric import mean_of

VARIETY = mean_of(
  lambda images, references: np.abs(images - images[:1]).max((1, 2, 3)),
  label='Variety',
  better=max,
  digits=4,
)
