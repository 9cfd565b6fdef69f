"""Benchmarks: ours beside the same networks and loss in PyTorch diffusers, in one process."""

from cdd.core import runtime

runtime.configure()
