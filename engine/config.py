"""How a worker process is configured: one frozen value, parsed once in `__main__` from options and environment.

Every field is an option (`--kv-memory-mb 512`) and an environment variable (`TANDEM_KV_MEMORY_MB=512`).
"""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorkerConfig(BaseSettings):
    """What prefill and decode workers have in common."""

    model_config = SettingsConfigDict(
        env_prefix="TANDEM_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        protected_namespaces=(),
    )

    model: str = ""
    """A Hugging Face folder, or org/name to fetch one; empty is the built-in demonstration model."""
    served_model_name: str = ""
    """What requests call the model; empty is the folder's name."""
    worker_id: str = ""
    """Name in logs, traces and reports; empty is role, host and process id."""
    listen: str = "127.0.0.1:0"
    """Where frontends connect: host:port, or unix:PATH."""
    kv_listen: str = "tcp://127.0.0.1:0"
    """Decode: where KV blocks arrive, tcp://host:port or ipc://PATH. A host that peers can reach."""
    shared_memory: Literal["auto", "off"] = "auto"
    """auto: one user's workers on a Linux host read each other's blocks where they lie, in shared memory on CPUs and by
    CUDA's handles on GPUs; where they cannot, blocks go to kv_listen."""
    kv_groups: Literal["off", "gloo", "nccl"] = "off"
    """Blocks go through groups of torch.distributed, before kv_listen: gloo between CPUs, nccl where each worker has a
    GPU of its own. Not encrypted: beyond this machine only with `insecure`."""
    kv_key: str = ""
    """File with this worker's CURVE key, as `tandem keys kv` makes it: KV over tcp is then encrypted."""
    kv_peers: str = ""
    """File with the public CURVE keys of the workers that KV is exchanged with, one a line; a change is noticed."""
    tls_cert: str = ""
    """PEM file: frontends connect over TLS."""
    tls_key: str = ""
    """PEM file: the certificate's key."""
    tls_ca: str = ""
    """PEM file: frontends must show a certificate that this authority signed."""
    insecure: bool = False
    """Let anybody in who reaches an address beyond this machine."""
    device: str = Field(default="cpu", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """What the model computes on: cpu, cuda, cuda:N, or auto, which is a GPU where there is one with all it needs."""
    device_reserve_mb: PositiveInt = 1024
    """GPU memory, in MiB, that a KV pool leaves free beside what a step takes, and nccl's groups."""
    device_memory_share: float = Field(default=1.0, gt=0, le=1)
    """Part of the GPU's memory that a worker takes at most, its weights and device_reserve_mb included, where neither
    num_blocks nor kv_memory_mb says how large its pool is. Shares of workers on one GPU add up to 1 at most."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and activations; auto is float32 on a CPU and bfloat16 on a GPU."""
    quantization: Literal["none", "int8", "fp8"] = "none"
    """int8: weights with a scale per output, activations with one per token; from any checkpoint, as it is loaded. fp8:
    the same in float8 e4m3, on GPUs that multiply it. none keeps weights as they are, four bits only on a GPU."""
    kv_cache_dtype: Literal["auto", "float32", "float16", "int8", "fp8"] = "auto"
    """In which keys and values are kept and moved; int8 with a scale per head and token, on CPUs; fp8 is e4m3 without a
    scale, on GPUs. auto is float32 on a CPU, and on a GPU the type that the model computes in."""
    tensor_parallel: PositiveInt = 1
    """Processes that this worker spreads each layer's heads and MLP over, on this host. On CPUs they share its CPUs,
    threads and KV pool; each has a GPU of its own, from `device` on. Workers that exchange KV may differ in it."""
    pipeline_parallel: PositiveInt = 1
    """More than 1 is refused: layers are not spread over processes."""
    threads: NonNegativeInt = 0
    """Compute threads; 0 is one per core, or per CPU of `cpus`."""
    cpus: str = ""
    """CPUs this worker is pinned to, like 0 or 0-3 or 0,2-3; empty pins it to none."""
    borrow_cpus: str = ""
    """CPUs of other workers, used for a step while their owners have no work; needs `cpu_board`."""
    cpu_board: str = ""
    """File that all workers of a machine share, where each says whether its `cpus` are at work; empty lends nothing."""
    block_tokens: PositiveInt = 16
    """Positions per KV block."""
    num_blocks: NonNegativeInt = 0
    """KV blocks in the pool; 0 fits as many as kv_memory_mb holds."""
    kv_memory_mb: PositiveInt = 512
    """Memory of the KV pool, in MiB, when num_blocks is 0; on a GPU, when not given, what is left."""
    max_context: NonNegativeInt = 0
    """Longest sequence in tokens; 0 is the model's own limit, as far as the pool can hold it."""
    max_sequences: PositiveInt = 64
    """Requests on this worker at once; decode: also the largest batch."""
    max_step_tokens: PositiveInt = 512
    """Prompt tokens that one step computes at most (chunked prefill). On a GPU, when not given, prefill's are 8192 and
    decode's 2048."""
    max_queued_tokens: PositiveInt = 262_144
    """Prefill: prompt tokens that may wait; more are refused."""
    lease_s: PositiveFloat = 10.0
    """Without word from its frontend, a request is given up after this."""
    stall_limit_s: PositiveFloat = 10.0
    """A transfer whose peer takes nothing for this long has failed."""
    drain_timeout_s: NonNegativeFloat = 60.0
    """After the first SIGTERM, requests may take this long to end."""
    watch_folders: str = ""
    """Folders, comma-separated, whose disks must have room, as that of the log must where it is a file: while one has
    none, this worker takes nothing new."""
    debug_custody: bool = False
    """Check after every command and step that each KV block is where the books say; end the process if one is not."""
    otlp_endpoint: str = ""
    """OTLP over gRPC, e.g. http://localhost:4317; empty exports no traces."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    """How lines look: text, or a JSON object each."""
    profile_s: NonNegativeFloat = 1.5
    """Seconds that measuring the worker's speed may take at its start, twice if it borrows CPUs; 0 does not measure."""
    niceness: int = Field(default=0, ge=0, le=19)
    """Added to the process's niceness; decode wins over prefill where they share cores."""
