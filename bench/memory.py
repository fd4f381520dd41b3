"""What reading memory allows: how fast this machine reads, and the weights that every decode step has to read.

No step takes less time than its bytes at this speed.
"""

import math
import time

import torch

from engine.models.spec import ModelSpec
from engine.models.tensors import expected_shapes

REPEATS = 10


def read_speed(memory: torch.Tensor) -> float:
    """Bytes per second with all of torch's threads; `memory` is a float32 matrix `[rows, columns]` no cache can hold.

    The best of several matrix-vector products: each reads the matrix once, and its vector stays in the cache.
    """
    vector, best_s = torch.ones(memory.shape[1]), float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        torch.mv(memory, vector)
        best_s = min(best_s, time.perf_counter() - began)
    return memory.nbytes / best_s


def weight_bytes(spec: ModelSpec, bytes_per_weight: int) -> int:
    """Bytes of weights that one decode step reads: all but the embeddings, of which it takes a row a sequence.

    Tied embeddings are the head as well, and count. Norms and biases count with the rest, although they stay float32
    beside int8 (under 0.1 % of the bytes); the scales of int8 rows do not count (under 1 %).
    """
    counted = (
        math.prod(shape)
        for name, shape in expected_shapes(spec).items()
        if spec.tied_embeddings or "embed_tokens" not in name
    )
    return sum(counted) * bytes_per_weight
