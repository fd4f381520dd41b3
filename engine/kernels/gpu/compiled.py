"""Compiling a kernel for a GPU that need not be there, and what it will take of one.

Pointers are taken to be multiples of 16 bytes, as torch allocates them, and integers to be multiples of 16 where their
type says so ("i32:16"): at a launch Triton looks at them and compiles for what it finds.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED_BYTES: Mapping[int, int] = {80: 163 << 10, 90: 227 << 10}
"""Shared memory that one block of threads can have, by compute capability."""
_WARP_THREADS = 32
_MULTIPLE = ":16"
_TOUCHES = re.compile(r"^\s*(@%p\d+ )?(ld\.global|st\.global|cp\.async|atom|red)\b", re.MULTILINE)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


@dataclass(frozen=True, slots=True)
class Compiled:
    """One specialization of a kernel, to be compiled without a GPU."""

    kernel: Any
    """The `@triton.jit` function"""
    signature: Mapping[str, str]
    """Type of each argument that is no constant: "*bf16", "i32", "i32:16", "fp32", ..."""
    constants: Mapping[str, object]
    """Values of the constexpr arguments; None for a pointer that is not given"""
    num_warps: int = 4
    num_stages: int = 2
    capabilities: tuple[int, ...] = (80, 90)
    """What it is meant for: tiles that suit one chip may not fit another"""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one compiled kernel takes."""

    registers: int
    """32-bit registers of one thread"""
    spill_bytes: int
    """Local memory of one thread: what did not fit into registers"""
    shared_bytes: int
    """Shared memory of one block of threads"""
    awaits: bool | None
    """Whether it waits for the kernels before it before it touches memory (`early.py`); None: it does not wait"""


def cross_compile(compiled: Compiled, capability: int) -> Resources:
    """Compile for the compute capability times ten (80: A100, 90: H100 and H200). Not in the interpreter.

    Raises what Triton or ptxas raise when the kernel does not compile.
    """
    kernel = compiled.kernel
    names: list[str] = kernel.arg_names
    types = {name: compiled.signature.get(name, "constexpr") for name in names}
    unknown = (set(compiled.signature) | set(compiled.constants)) - set(names)
    assert not unknown, f"{kernel.__name__} has no {', '.join(sorted(unknown))}"
    attrs = {
        (index,): [["tt.divisibility", 16]]
        for index, kind in enumerate(types.values())
        if kind.startswith("*") or kind.endswith(_MULTIPLE)
    }
    signature = {name: kind.removesuffix(_MULTIPLE) for name, kind in types.items()}
    binary = triton.compile(
        ASTSource(kernel, signature, dict(compiled.constants), attrs),
        target=GPUTarget("cuda", capability, _WARP_THREADS),
        options={"num_warps": compiled.num_warps, "num_stages": compiled.num_stages, "enable_fp_fusion": True},
    )
    registers, stack_bytes, local_bytes = _usage(binary.asm["cubin"])
    return Resources(registers, stack_bytes + local_bytes, binary.metadata.shared, _awaits(binary.asm["ptx"]))


def _awaits(ptx: str) -> bool | None:
    before, wait, _ = ptx.partition("griddepcontrol.wait")
    return not _TOUCHES.search(before) if wait else None


def _usage(cubin: bytes) -> tuple[int, ...]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = _USAGE.search(report)
    assert found is not None, report
    return tuple(int(number) for number in found.groups())
