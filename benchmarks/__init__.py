"""Benchmarks: ours beside the same networks and loss in PyTorch diffusers, in one process."""

from cdd import runtime

runtime.configure()
