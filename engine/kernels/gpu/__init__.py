"""The operations of a forward pass on an NVIDIA GPU, one a file: formula, torch twin, Triton kernel, thin wrapper.

A wrapper checks shapes, chooses the grid and launches; it allocates nothing, waits for nothing and reads nothing back,
so that a step can be a CUDA graph. What changes from step to step comes in device tensors, or in numbers that no kernel
is specialized for: else Triton compiles it anew, for 1, for multiples of 16 and for others, while requests wait. On a
machine without a GPU the same kernels run in Triton's interpreter (TRITON_INTERPRET=1), and `compiled.py` compiles them
for GPUs elsewhere.
"""
