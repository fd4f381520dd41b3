"""Kernels that come onto the GPU before the one before them has ended (programmatic dependent launch; sm_90 and newer).

A kernel that waits there for the end of the other begins at once then, where a launch takes a microsecond. It must wait
before it reads what another kernel makes, and before it writes what another reads. The one that it waits for has waited
for the one before that, and so everything is in order as ever. What nobody writes, weights, it may fetch meanwhile.

See the PTX manual, "griddepcontrol": https://docs.nvidia.com/cuda/parallel-thread-execution/
"""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.paged import is_hopper


@triton.jit
def await_others():  # type: ignore[no-untyped-def]
    """Let the next kernel come, and wait for all those before this one, whose writes are then seen."""
    tl.extra.cuda.gdc_launch_dependents()
    tl.extra.cuda.gdc_wait()


@triton.jit
def fetch_ahead(pointers):  # type: ignore[no-untyped-def]
    """Have the lines that these addresses lie in brought into the cache of the whole GPU."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [pointers.to(tl.int64)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


def can_launch_early(device: torch.device) -> bool:
    """Whether the GPU is one that does so; the interpreter does not."""
    return device.type == "cuda" and is_hopper(device)
