"""Sampling from Python: `load(path)` gives a `Pipeline`, which is called with prompts."""

from cdd.sampling.pipeline import Pipeline, Settings, load

__all__ = ['Pipeline', 'Settings', 'load']
