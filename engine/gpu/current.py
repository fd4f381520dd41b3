"""The device that kernels are launched on: CUDA keeps one for every thread, and a model is opened on one thread and
computes on another."""

from contextlib import AbstractContextManager, nullcontext

import torch


def on(device: torch.device) -> AbstractContextManager[object]:
    """Within it, Triton and new streams, events and graphs are of `device`."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
