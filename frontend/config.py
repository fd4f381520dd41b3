"""How a frontend process is configured: one frozen value, parsed once in `__main__` from options and environment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from engine.errors import ConfigError
from frontend.keeper import SLOW_TTFT_S


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _places(value: object) -> object:
    """A folder's name may have a comma in it, as long as it is the only one."""
    return [value] if isinstance(value, str) and Path(value).expanduser().is_dir() else _split(value)


Places = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_places)]
Addresses = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class FrontendConfig(BaseSettings):
    """Every field is an option (`--http-port 8000`) and an environment variable (`TANDEM_HTTP_PORT=8000`)."""

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

    model: Places = ()
    """Folder (or org/name) whose tokenizer and chat template are used; empty is the demonstration model. Of several,
    each FOLDER or NAME=FOLDER, the first is the default; what is set beside them (its name, chat template, parsers and
    pooling) is the first one's, and others have what their folders say."""
    served_model_name: str = ""
    """What requests call the model; empty is the folder's name."""
    model_aliases: Names = ()
    """Other names that requests may call it, comma-separated; of another model than the first, NAME=ALIAS,ALIAS."""
    fallback: Names = ()
    """Models that answer while no decode worker serves one: NAME=OTHER,OTHER, in their order."""
    accept_any_model: bool = False
    """Whatever model a request names that nobody has, it gets the first."""
    unknown_parameters: Literal["refuse", "ignore"] = "refuse"
    """What becomes of a parameter that nobody has, in OpenAI's JSON. What is known and not supported is refused."""
    chat_template: str = ""
    """File with a Jinja chat template, instead of the model's own."""
    tool_parser: Literal["auto", "none", "llama3", "hermes", "qwen3-coder", "mistral", "deepseek", "json"] = "auto"
    """How the model spells calls of tools; auto asks its chat template, none leaves them in the text."""
    reasoning_parser: Literal["auto", "none", "think", "mistral"] = "auto"
    """How the model marks its reasoning; auto asks its chat template, none leaves it in the text."""
    embedding_pooling: Literal["auto", "mean", "last"] = "auto"
    """How prompts become vectors, over all tokens or from the last; auto asks the model's folder, and else is mean."""
    schemas: Names = ()
    """Folders of JSON schemas that a `$ref` may lead to, comma-separated: URI=FOLDER. Nothing is ever fetched."""
    prefill: Addresses = ()
    """Addresses of prefill workers, comma-separated: host:port, unix:PATH or dns:///name:port (every address of it)."""
    decode: Addresses = ()
    """Addresses of decode workers, comma-separated."""
    host: str = "127.0.0.1"
    http_port: NonNegativeInt = 8000
    """0 takes a free one."""
    grpc_port: NonNegativeInt = 50051
    """0 takes a free one."""
    mount: Names = ()
    """One dialect of REST by itself, as NAME=:PORT or NAME=/PREFIX; several with commas, or given again. Names: openai,
    vllm, tgi, ollama, anthropic, llamacpp."""
    api_key: str = ""
    """When set, requests must carry it, or one of `api_keys`: Authorization: Bearer KEY."""
    api_keys: str = ""
    """File of keys with their models and limits, as `tandem keys api` writes it; read again when it changes."""
    local_listen: str = ""
    """unix:PATH where gRPC is served besides, without TLS: for who started this process, and guarded by the folder."""
    tls_cert: str = ""
    """PEM file: gRPC and REST are served over TLS. Read again when it changes."""
    tls_key: str = ""
    """PEM file: the certificate's key."""
    tls_ca: str = ""
    """PEM file: clients must show a certificate that this authority signed."""
    worker_cert: str = ""
    """PEM file: shown to workers, which are reached over TLS."""
    worker_key: str = ""
    """PEM file: the certificate's key."""
    worker_ca: str = ""
    """PEM file: workers must show a certificate that this authority signed."""
    insecure: bool = False
    """Let anybody in who reaches an address beyond this machine."""
    max_queued_requests: PositiveInt = 1024
    """Requests that may wait for a worker; more are refused."""
    max_queued_tokens: PositiveInt = 1_048_576
    """Prompt tokens that may wait for a worker."""
    max_body_bytes: PositiveInt = 16 * 2**20
    """Largest request, REST body or gRPC message."""
    cors_origins: Names = ()
    """Origins whose pages may send requests from browsers, comma-separated: https://host:port, or * for all."""
    max_attempts: PositiveInt = 5
    """Times in a row that a request is tried on workers without a token before its failure is the caller's."""
    max_worker_deaths: int = Field(default=3, ge=3)
    """Workers that may die with a request, one after the other, before it is refused as what they die of."""
    queue_timeout_s: PositiveFloat = 60.0
    """A request that waited this long for a worker is refused; one that is expected to, at once."""
    ttft_slo_s: NonNegativeFloat = 0.0
    """A request whose first token is expected later than this is refused at once; 0 refuses none for that."""
    max_resume_grace_s: NonNegativeFloat = 30.0
    """Longest that a gRPC request may ask its answer to be kept for a client that has gone."""
    local_prefill_tokens: NonNegativeInt = 0
    """Prompts with at most this many uncached tokens are always prefilled by the decode worker; 0 leaves it to the
    router's estimate."""
    always_remote: bool = False
    """Never prefill on a decode worker while a prefill worker is there."""
    itl_tolerance: PositiveFloat = 4.0
    """A step that also prefills may take so many times the running streams' own step; what it takes beyond that counts
    more against prefilling on the decode worker."""
    cpus: str = ""
    """CPUs this process is pinned to, like 0 or 0-3 or 0,2-3; empty pins it to none."""
    watch_folders: Names = ()
    """Folders whose disks must have room, as that of the log must where it is a file: while one has none, this frontend
    is not ready."""
    drain_timeout_s: NonNegativeFloat = 60.0
    otlp_endpoint: str = ""
    """OTLP over gRPC, e.g. http://localhost:4317; empty exports no traces."""
    trace_sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Of the traces that begin here, how many are exported. A caller's decision on its own is followed."""
    trace_slow_ttft_s: NonNegativeFloat = SLOW_TTFT_S
    """Of the others, those are exported after all whose request fails, loses a worker, or has no first token for longer
    than this (0: for whatever time); at most 60 a minute."""
    trace_ui: str = ""
    """Where people look at traces, as Jaeger shows them, e.g. http://localhost:16686: the console links there."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    """How lines look: text, or a JSON object each."""


def by_model(values: Sequence[str], names: Sequence[str], field: str) -> dict[str, tuple[str, ...]]:
    """Whose each of `values` is: of the model whose NAME= stands before it, or before one to its left; else the first
    one's. Raises ConfigError for a name that is none of `names`."""
    found: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
    name = names[0]
    for value in values:
        before, is_named, after = value.partition("=")
        name = before if is_named else name
        if name not in found:
            raise ConfigError(f"--{field.replace('_', '-')}: there is no model {name!r}", field=field)
        found[name] += (after if is_named else value,)
    return found
