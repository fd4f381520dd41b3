"""A CUDA device that is not there, for tests: what a GPU would refuse, or be slow at, is seen on a CPU.

In `with pretended() as gpu` tensors of `cuda:0` and `torch.cuda` work in a torch without CUDA (`install.py`). Numbers
lie in the CPU's memory (`tensors.py`). Nothing that was launched is computed before somebody waits for it
(`streams.py`); kernels run in Triton's interpreter (`launches.py`), and graphs are replayed as they were captured
(`graphs.py`). New memory is garbage, and so is what a copy is still on its way to.

A test asks the device what was waited for, what was compiled, and where (`gpu.py`). What it cannot see: speed; whether
a kernel compiles, or keeps its bounds; what threads of one kernel do to each other; other orders of work than the last
that streams and events allow. There is one device, and no stream joins a capture.
"""
