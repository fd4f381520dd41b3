"""The operations of a forward pass, one a file: formula, torch twin, kernel, thin wrapper."""
