"""Which device each rank of a worker computes on, and how ranks on such devices reach each other."""

import torch

from engine.tp.gloo import GlooRanks
from engine.tp.nccl import NcclRanks


def device_of(first: torch.device, rank: int) -> torch.device:
    """On GPUs one for each rank, from rank 0's on; CPUs are the same for all."""
    return torch.device("cuda", (first.index or 0) + rank) if first.type == "cuda" else first


def ranks_on(device: torch.device, rank: int, size: int) -> GlooRanks | NcclRanks:
    """One rank's side. Raises ConfigError where this torch has no such groups."""
    return NcclRanks(rank, size, device) if device.type == "cuda" else GlooRanks(rank, size)
