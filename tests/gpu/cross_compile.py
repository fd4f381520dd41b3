"""Compiles what the kernels' files export in `COMPILED`, for every capability, and prints what each takes:

python -m tests.gpu.cross_compile [--json]
"""

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import engine.kernels.gpu
from engine.kernels.gpu.compiled import Compiled, cross_compile


@dataclass(frozen=True, slots=True)
class Case:
    """One specialization, for one GPU."""

    name: str
    compiled: Compiled
    capability: int


def cases() -> Iterator[Case]:
    for module in sorted(pkgutil.iter_modules(engine.kernels.gpu.__path__), key=lambda module: module.name):
        file = importlib.import_module(f"engine.kernels.gpu.{module.name}")
        for index, compiled in enumerate(getattr(file, "COMPILED", ())):
            for capability in compiled.capabilities:
                kernel = compiled.kernel.__name__.removeprefix("_")
                yield Case(f"{module.name}.{kernel}.{index}.sm_{capability}", compiled, capability)


def specialized(compiled: Compiled) -> list[str]:
    """Numbers that the kernel is compiled for, each time that they are 1, a multiple of 16 or neither."""
    numbers = {name for name, kind in compiled.signature.items() if kind[0] in "iu"}
    return sorted(p.name for p in compiled.kernel.params if p.name in numbers and not p.do_not_specialize)


def compile_all(as_json: bool) -> None:
    """A line for each case; one that does not compile has its error in place of what it takes."""
    for case in cases():
        try:
            found = asdict(cross_compile(case.compiled, case.capability)) | {"specialized": specialized(case.compiled)}
        except Exception as error:  # noqa: BLE001 - whatever a compiler raises belongs to its case
            found = {"error": f"{type(error).__name__}: {error}"}
        if as_json:
            line = json.dumps({"name": case.name, **found})
        else:
            line = f"{case.name:60}" + "".join(f" {key} {value}" for key, value in found.items())
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET", "0") == "0", "the interpreter does not compile"
    compile_all("--json" in sys.argv[1:])
