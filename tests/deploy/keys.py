"""The image's `make-keys`, run here."""

import os
import stat
import sys
import tempfile
from pathlib import Path

from tests.deploy.files import IMAGE, ROOT
from tests.deploy.tools import run


def make_keys(folder: Path) -> Path:
    """All keys of a deployment, in a folder for each role."""
    with tempfile.TemporaryDirectory() as programs:
        tandem = Path(programs) / "tandem"
        tandem.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m cli "$@"\n')
        tandem.chmod(tandem.stat().st_mode | stat.S_IXUSR)
        path = f"PATH={programs}:{os.environ['PATH']}"
        run("env", path, f"PYTHONPATH={ROOT}", f"KEYS={folder}", str(IMAGE / "make-keys"))
    return folder
