"""Sampling from Python: `load(path)` gives a `Pipeline`, which is called with prompts."""

from cdd.sampling.pipeline import Pipeline, load
from cdd.sampling.settings import Settings

__all__ = ['Pipeline', 'Settings', 'load']
