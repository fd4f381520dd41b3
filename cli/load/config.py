"""What one run is asked to be: values only, checked where they are used."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cli.trust import Trust

Endpoint = Literal["completions", "chat"]
DEFAULT_VOCAB = 32_000
"""When neither the option nor the server tells."""
MOONCAKE_BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """The server, and how it is asked."""

    url: str
    """http://host:port or https://host:port (OpenAI-compatible), or grpc:// and grpcs:// (tandem.v1.Inference)."""
    endpoint: Endpoint = "completions"
    model: str = ""
    """Empty takes the first that the server lists."""
    api_key: str | None = None
    trust: Trust = Trust()
    """For https:// and grpcs://."""
    temperature: float = 0.0
    ignore_eos: bool = True
    """Answers have exactly the length that was asked for."""
    extra_body: dict[str, object] = field(default_factory=dict)
    """More fields of the JSON body; not for gRPC."""
    timeout_s: float = 600.0
    """Of one request; a longer one fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """A recorded load, and how it is made to fit."""

    path: Path
    length_scale: float = 1.0
    """Prompt and output lengths are multiplied by this, and are at least 1."""
    block_tokens: int | None = None
    """Tokens of one Mooncake block when replayed. Default: 512 times length_scale."""
    time_scale: float = 1.0
    """Times are multiplied by this: 0.5 replays twice as fast."""
    max_context: int | None = None
    """Of prompt and output together: prompts are clipped to fit, requests whose output alone does not are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """One run. Lengths are in tokens."""

    target: TargetConfig
    num_prompts: int | None = None
    """Default: 100, or every request of the trace."""
    request_rate: float | None = None
    """Requests per second, open loop. Default: all at once, or the trace's own times."""
    burstiness: float = 1.0
    concurrency: int | None = None
    """Requests that may run at the same time; without a rate this is a closed loop."""
    input_len: int = 128
    output_len: int = 32
    range_ratio: float = 0.0
    """Lengths are uniform in [len * (1 - ratio), len * (1 + ratio)]."""
    prefix_len: int = 0
    """Tokens that all prompts begin with, besides input_len."""
    trace: TraceConfig | None = None
    prompts: Path | None = None
    """Texts, one a line, or JSONL. The only kind of prompt that the chat endpoint takes."""
    vocab: int | None = None
    """Random token ids are below this. Default: what the server tells, or 32,000."""
    num_warmups: int = 1
    """Requests before the clock starts; one that fails ends the run."""
    goodput: dict[str, float] = field(default_factory=dict)
    """Limits in milliseconds by metric (ttft, tpot, e2el); a request is good that meets all of them."""
    seed: int = 0

    @property
    def is_closed_loop(self) -> bool:
        return self.concurrency is not None and self.request_rate is None

    @property
    def rate(self) -> float:
        return math.inf if self.request_rate is None else self.request_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class InterferenceConfig:
    """Streams that run all the time; later, long prompts that arrive among them. Lengths are in tokens."""

    target: TargetConfig
    streams: int = 6
    input_len: int = 128
    output_len: int = 1024
    """Of one answer of a stream; the stream then asks again."""
    quiet_s: float = 15.0
    """How long the streams run undisturbed."""
    long_input_len: int = 1024
    long_output_len: int = 8
    long_every_s: float = 4.0
    duration_s: float = 30.0
    """How long long prompts keep arriving."""
    vocab: int | None = None
    seed: int = 0
