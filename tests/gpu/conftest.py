"""Where kernels run: in Triton's interpreter, or on the GPU with

    TRITON_INTERPRET=0 pytest -m "not slow" tests/gpu/kernels tests/gpu/engine tests/gpu/kvtransfer
    pytest -m gpu tests/kvtransfer

It is chosen in `tests/conftest.py`, before anything imports Triton.
"""

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch

collect_ignore_glob: list[str] = []
if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = [
        "kernels/test_*.py",
        "engine/test_*.py",
        "kvtransfer/test_*.py",
        "bench/test_*.py",
        "test_pretended.py",
    ]  # they import it; `test_cross_compile.py` says that it is missing
if torch.version.cuda is not None or os.environ["TRITON_INTERPRET"] == "0":
    # What `pretend` puts in the place of CUDA is for builds of torch that have none.
    collect_ignore_glob += ["test_pretended.py", "*/test_*on_pretended_cuda.py"]


@pytest.fixture(scope="session")
def needs_triton() -> None:
    """Skips, naming what is missing."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install 'tandem-serve[gpu]'")


@pytest.fixture(autouse=True)
def _on_device() -> Iterator[None]:
    """Tensors are made where kernels run, and are the same in every run."""
    torch.manual_seed(0)
    if os.environ["TRITON_INTERPRET"] != "0":
        yield
        return
    with torch.device("cuda"):
        yield
