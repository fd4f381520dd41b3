"""What to think of a machine: facts in, findings out. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from packaging.requirements import Requirement
from packaging.version import Version

from cli.doctor.findings import Finding, failure, ok, warning
from cli.doctor.machine import Cores, Cpu, Gpu, Limits, Memory

OLDEST_PYTHON = Version("3.11")
ONE_VERSION = ("grpcio", "grpcio-health-checking", "grpcio-reflection", "grpcio-status")
"""Packages that are released together, and work together where they are of one release."""
FEW_FILES = 4096
"""Descriptors: each stream of a client has one, and a worker some dozens."""
SMALL_SHM_BYTES = 64 << 20
FULL = 0.8
"""Share of the memory above which other things on the machine may not fit beside it."""
MIB = 1 << 20


def check_python(version: str) -> Finding:
    if Version(version) < OLDEST_PYTHON:
        return failure("python", f"Python {version}", f"Tandem needs {OLDEST_PYTHON} or later")
    return ok("python", f"Python {version}")


def check_packages(wanted: Sequence[str], installed: Mapping[str, str]) -> Iterator[Finding]:
    """`wanted` as a project's metadata has it; what is for extras is not looked at. One finding, or one for each that
    is wrong."""
    wrong = []
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version, change = installed.get(requirement.name), f"pip install '{requirement.name}{requirement.specifier}'"
        if version is None:
            wrong.append(failure("packages", f"{requirement.name} is not installed", change))
        elif not requirement.specifier.contains(version.partition("+")[0], prereleases=True):
            says = f"{requirement.name} is {version}; {requirement.specifier} was tested"
            wrong.append(warning("packages", says, change))
    versions = {installed[name] for name in ONE_VERSION if name in installed}
    if len(versions) > 1:
        says = f"grpcio and its parts are of several versions: {', '.join(sorted(versions))}"
        wrong.append(failure("packages", says, "pip install them all in one version"))
    told = ("torch", "grpcio", "protobuf", "numba", "pyzmq")
    all_well = ok("packages", ", ".join(f"{name} {installed[name]}" for name in told if name in installed))
    yield from wrong or [all_well]


def check_cpu(cpu: Cpu) -> Finding:
    """What the CPU's instructions mean for the number formats that Tandem computes in."""
    flags = cpu.flags
    if cpu.architecture not in ("x86_64", "AMD64"):
        says = f"{cpu.name} ({cpu.architecture}): tested on x86-64 alone"
        return warning("cpu", says, "expect it to be slower: the products of our own need AVX-512 (AMX, VNNI)")
    if "avx2" not in flags:
        return warning("cpu", f"{cpu.name} has no AVX2", "take another machine: products are very slow without it")
    has_vnni = "avx512_vnni" in flags
    if "amx_int8" in flags and "amx_bf16" in flags:
        return ok("cpu", f"{cpu.name} has AMX: bfloat16 products for float32, and --quantization int8 is fastest")
    if has_vnni and "avx512f" in flags:
        return ok("cpu", f"{cpu.name} has AVX-512 and VNNI: --quantization int8 is fastest")
    if "avx_vnni" in flags:
        return ok("cpu", f"{cpu.name} has AVX2 and VNNI, no AVX-512: int8 is faster than float32, by less than with it")
    if "avx512f" in flags:
        return ok("cpu", f"{cpu.name} has AVX-512 without VNNI: float32 is fast, int8 saves memory and little time")
    says = f"{cpu.name} has AVX2, no AVX-512: float32 is slower than with it"
    return warning("cpu", says, "int8 saves memory, not time, here")


def check_cores(cores: Cores, num_workers: int) -> Iterator[Finding]:
    has = f"{cores.usable} of {cores.present} CPUs"
    if cores.quota is not None and cores.quota < cores.usable:
        says = f"{has}, but the cgroup grants the time of {cores.quota:g}: threads stop in the middle of steps"
        threads = max(int(cores.quota / num_workers), 1)
        yield warning("cores", says, f"grant whole CPUs (cpuset), or start workers with --threads {threads}")
    elif cores.usable < num_workers:
        says = f"{has} for {num_workers} workers: their threads wait for each other"
        yield warning("cores", says, "fewer workers: with one CPU, tandem up --prefill 0 is as fast and steadier")
    else:
        yield ok("cores", f"{has} for {num_workers} workers")


def check_memory(memory: Memory, weights_bytes: int, kv_bytes: int, num_workers: int) -> Finding:
    """`weights_bytes` as they are computed with, and a KV pool, for each worker."""
    needed = num_workers * (weights_bytes + kv_bytes)
    limit = " (the cgroup's limit)" if memory.usable_bytes < memory.available_bytes else ""
    says = (
        f"{num_workers} workers need about {_mib(needed)}: {_mib(weights_bytes)} of weights and {_mib(kv_bytes)} of KV "
        f"each; {_mib(memory.usable_bytes)} are available{limit}"
    )
    change = "--quantization int8 for a quarter of the weights, a smaller --kv-memory-mb, or fewer workers"
    if needed > memory.usable_bytes:
        return failure("memory", says, change)
    return warning("memory", says, change) if needed > FULL * memory.usable_bytes else ok("memory", says)


def check_gpu(gpu: Gpu, triton: str | None, *, wanted: bool) -> Finding:
    """`wanted`: whether workers are to compute on one."""
    if gpu.driver is None and not gpu.usable:
        if wanted:
            return failure("gpu", "no NVIDIA driver answers", "install one, or use --device cpu")
        return ok("gpu", "none: workers compute on the CPU")
    names = ", ".join(gpu.names) or "a GPU"
    if not gpu.usable:
        cuda = f"is built for CUDA {gpu.torch_cuda}" if gpu.torch_cuda else "is a build without CUDA"
        says = f"{names} with driver {gpu.driver}, but torch {cuda} and finds no device"
        change = "install a torch built for a CUDA that the driver knows (nvidia-smi names it)"
        return failure("gpu", says, change) if wanted else warning("gpu", says, change)
    if triton is None:
        says, change = f"{names}, but triton is not installed", "pip install 'tandem-serve[gpu]'"
        return failure("gpu", says, change) if wanted else warning("gpu", says, change)
    return ok("gpu", f"{names}, CUDA {gpu.torch_cuda}, triton {triton}: --device cuda")


def check_limits(limits: Limits, *, wants_groups: bool) -> Iterator[Finding]:
    """`wants_groups`: whether KV goes through NCCL."""
    if limits.open_files < FEW_FILES:
        says = f"{limits.open_files} files may be open; each stream of a client is one"
        raised = limits.hard_open_files if limits.hard_open_files > FEW_FILES else FEW_FILES
        yield warning("files", says, f"ulimit -n {raised}, or LimitNOFILE= of the service")
    else:
        yield ok("files", f"{limits.open_files} files may be open")
    if limits.shm_bytes is None:
        yield warning("shm", "there is no /dev/shm", "mount a tmpfs there: NCCL and OpenMP look for it")
    elif limits.shm_bytes < SMALL_SHM_BYTES and wants_groups:
        says = f"/dev/shm has {_mib(limits.shm_bytes)} free, too little for NCCL"
        yield failure("shm", says, "docker run --shm-size 1g, or an emptyDir of medium Memory in Kubernetes")
    else:
        says = f"/dev/shm has {_mib(limits.shm_bytes)} free; KV pools do not count there, but as memory"
        yield ok("shm", says)


def check_ports(host: str, taken: Sequence[int], ports: Sequence[int]) -> Finding:
    if taken:
        which = " and ".join(map(str, taken))
        return failure("ports", f"{host} port {which} is taken", "stop who listens there, or choose others")
    return ok("ports", f"{host} ports {' and '.join(map(str, ports))} are free")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:,.0f} MiB" if size_bytes < 10 * 1024 * MIB else f"{size_bytes / MIB / 1024:,.1f} GiB"
