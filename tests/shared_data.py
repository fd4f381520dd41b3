"""Where the data that tests share is kept: models, goldens, templates."""

import os
from pathlib import Path

import pytest


def shared_data(*parts: str) -> Path:
    """A file or folder of the shared data; skips the test, naming the path, where it is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("TANDEM_SHARED_DATA", default)).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is missing; set TANDEM_SHARED_DATA to the folder of the shared data")
    return path
