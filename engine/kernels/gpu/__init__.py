"""The operations of a forward pass on a GPU, one a file: formula, torch twin, Triton kernel, thin wrapper."""
