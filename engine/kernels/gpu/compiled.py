"""What a kernel costs on a chip that is not here: compiled for it, and its machine code asked.

Knows Triton's compiler and `cuobjdump`, which Triton brings. Needs no GPU, and no `TRITON_INTERPRET`, under which
kernels are not compiled at all.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Compiled:
    """One specialization of a kernel, to be compiled without a GPU."""

    kernel: Any
    """The `@triton.jit` function."""
    signature: Mapping[str, str]
    """Argument name to type: "*bf16", "i32", "*fp32"."""
    constants: Mapping[str, object]
    """Values of the constexpr arguments."""
    num_warps: int = 4
    num_stages: int = 2


@dataclass(frozen=True, slots=True)
class Resources:
    """What one program asks of a multiprocessor."""

    registers: int
    """Per thread."""
    spill_bytes: int
    """Of local memory per thread; anything above 0 means that registers did not suffice."""
    shared_bytes: int


def cross_compile(compiled: Compiled, capability: int) -> Resources:
    """Compile for `capability` (80, 90). Pointers count as 16-byte aligned, as torch's are and as a launch would see."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    names = compiled.kernel.arg_names
    signature = {name: compiled.signature.get(name, "constexpr") for name in names}
    aligned = {
        (index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if signature[name].startswith("*")
    }
    source = ASTSource(compiled.kernel, signature, dict(compiled.constants), aligned)
    options = {"num_warps": compiled.num_warps, "num_stages": compiled.num_stages}
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(binary.asm["cubin"])
        cuobjdump = Path(get_ptxas(capability).path).parent / "cuobjdump"
        report = subprocess.run(
            [cuobjdump, "--dump-resource-usage", path], check=True, capture_output=True, text=True
        ).stdout
    usage = {key: int(number) for key, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", report)}
    return Resources(usage["REG"], usage["STACK"] + usage["LOCAL"], binary.metadata.shared)
