"""Triton's interpreter, for kernels on a machine without a GPU. It is chosen here, before anything imports Triton."""

import importlib.util
import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # 0 with `-m gpu`, on a GPU
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns that 3.10 will have another default

collect_ignore_glob: list[str] = []
if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["kernels/test_*.py"]  # they import it; `test_cross_compile.py` says that it is missing


@pytest.fixture(scope="session")
def needs_triton() -> None:
    """Skips, naming what is missing."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install 'tandem-serve[gpu]'")
