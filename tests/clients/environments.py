"""Where each client is installed: a folder under build/clients, made once from its pins and kept until they change.

Needs nothing but the standard library, pip and npm.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INSTALLED = ROOT / "build" / "clients"
REQUIREMENTS = HERE / "requirements"
NPM = HERE / "npm"
OWN = ROOT / "clients" / "python"
"""The one client that is ours."""


def venv(name: str) -> Path:
    """The folder of programs of the environment in which `requirements/NAME.txt` is installed.

    Raises CalledProcessError when it cannot be.
    """
    pins = REQUIREMENTS / f"{name}.txt"
    sources = [pins]
    if "./clients/python" in pins.read_text():
        sources += [OWN / "pyproject.toml", *(OWN / "tandem_client").glob("*.py*")]

    def install(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, "-r", pins], check=True, cwd=ROOT)

    return _made(INSTALLED / name, sources, install) / "bin"


def node() -> Path:
    """The folder in which `npm/package.json` is installed, with the scripts of `npm/` beside it.

    Raises CalledProcessError when it cannot be, FileNotFoundError without npm.
    """
    if shutil.which("npm") is None:
        raise FileNotFoundError("npm is not installed")

    def install(folder: Path) -> None:
        folder.mkdir(parents=True)
        shutil.copy(NPM / "package.json", folder)
        subprocess.run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], check=True, cwd=folder)

    folder = _made(INSTALLED / "npm", [NPM / "package.json"], install)
    for script in NPM.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def _made(folder: Path, sources: list[Path], install: Callable[[Path], None]) -> Path:
    """`folder`, made anew unless it was made from the same sources."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()
    mark = folder / ".made-from"
    if not mark.exists() or mark.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.write(f"installing {folder.relative_to(ROOT)}\n")
        sys.stdout.flush()
        install(folder)
        mark.write_text(digest)
    return folder
