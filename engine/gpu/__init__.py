"""The engine on an NVIDIA GPU: what `engine/cache.py`, `models/decoder.py`, `runner.py` and `sampler.py` are on a CPU.

Imported only when a GPU was asked for, since it imports Triton. Everything here also runs on a CPU in Triton's
interpreter, except what only a GPU has: captured graphs, pinned memory and streams.
"""
