"""Data: sources of examples, tasks that make a condition of them, and the pipeline to batches."""

from cdd.data.sources import SOURCES
from cdd.data.tasks import TASKS

__all__ = ['SOURCES', 'TASKS']
