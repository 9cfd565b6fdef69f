"""Degradations: name -> a function that makes a worse and smaller image.

It is called as (image float32 [H, W, 3] in [0, 1], rng, *, factor, **settings).
"""

from cdd.data.degradations.simple import simple

DEGRADATIONS = dict(simple=simple)
