"""The JSON that clients of llama.cpp's server read. The Structs are encoded as they are, and are the schemas of
`/openapi.json`. Fields of what this server does not have say that it is off."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

StopType = Literal["none", "eos", "limit", "word"]


class LlamaTimings(Struct, frozen=True, kw_only=True):
    """`prompt_ms` is the time that the prompt was computed in; `predicted_ms` goes from the first token to the end of
    the answer. null where nothing can be divided."""

    cache_n: int
    prompt_n: int
    """Without those that were cached."""
    prompt_ms: float
    prompt_per_token_ms: float | None
    prompt_per_second: float | None
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float | None
    predicted_per_second: float | None


class LlamaLogitBias(Struct, frozen=True):
    bias: float
    token: int


class LlamaSettings(Struct, frozen=True, kw_only=True):
    """How answers are generated, as `/props` tells it; fields that have a value here are those of samplers and habits
    that this server does not have."""

    seed: int
    temperature: float
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int
    top_p: float
    min_p: float
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    typical_p: float = 1.0
    repeat_last_n: int
    """-1: penalties cover the whole text."""
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    max_tokens: int
    n_predict: int
    n_keep: int = 0
    n_discard: int = 0
    ignore_eos: bool
    stream: bool
    n_probs: int
    min_keep: int = 0
    chat_format: str = "Content-only"
    reasoning_format: str = "none"
    reasoning_in_content: bool = False
    generation_prompt: str = ""
    samplers: Sequence[str]
    speculative_types: str = field(default="none", name="speculative.types")
    timings_per_token: bool = False
    post_sampling_probs: bool = False
    backend_sampling: bool = False
    lora: list[int] = []


class LlamaGenerationSettings(LlamaSettings, frozen=True, kw_only=True):
    """The same of one answer."""

    stop: Sequence[str]
    logit_bias: list[LlamaLogitBias]
    grammar: str
    """As it was given; of `json_schema` the schema, as text."""
    grammar_lazy: bool = False
    grammar_triggers: list[str] = []
    preserved_tokens: list[str] = []
    dry_sequence_breakers: list[str] = []


class LlamaTopLogprob(Struct, frozen=True, kw_only=True):
    id: int
    token: str
    """Without bytes that are no character."""
    bytes: list[int]
    logprob: float


class LlamaTokenLogprob(Struct, frozen=True, kw_only=True):
    id: int
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[LlamaTopLogprob]


class LlamaCompletion(Struct, frozen=True, kw_only=True):
    """One answer, or the last part of it, in which content and tokens are empty."""

    index: int
    content: str
    tokens: Sequence[int]
    """With `return_tokens`."""
    id_slot: int = -1
    """No answer is bound to one."""
    stop: bool = True
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    generation_settings: LlamaGenerationSettings
    prompt: str
    has_new_line: bool
    truncated: bool
    """Whether the context ended the answer."""
    stop_type: StopType
    stopping_word: str
    tokens_cached: int
    """Of the prompt, what had been computed before."""
    timings: LlamaTimings
    completion_probabilities: list[LlamaTokenLogprob] | UnsetType = UNSET


class LlamaChunk(Struct, frozen=True, kw_only=True):
    """One event of a stream, but for the last."""

    index: int
    content: str
    tokens: Sequence[int]
    stop: bool = False
    id_slot: int = -1
    tokens_predicted: int
    tokens_evaluated: int
    completion_probabilities: list[LlamaTokenLogprob] | UnsetType = UNSET


class LlamaRendered(Struct, frozen=True):
    prompt: str


class LlamaSlot(Struct, frozen=True, kw_only=True):
    """Room for one sequence on a decode worker."""

    id: int
    n_ctx: int
    speculative: bool = False
    is_processing: bool


class LlamaDefaults(Struct, frozen=True, kw_only=True):
    params: LlamaSettings
    n_ctx: int


class LlamaModalities(Struct, frozen=True, kw_only=True):
    vision: bool = False
    video: bool = False
    audio: bool = False


class LlamaProps(Struct, frozen=True, kw_only=True):
    default_generation_settings: LlamaDefaults
    total_slots: Annotated[int, Meta(description="Sequences that decode workers hold at once.")]
    model_alias: str
    model_path: Annotated[str, Meta(description="The model's name; where its files are is nobody's business.")]
    modalities: LlamaModalities
    endpoint_slots: bool = True
    endpoint_props: Annotated[bool, Meta(description="Whether they can be changed.")] = False
    endpoint_metrics: bool = True
    chat_template: str
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: bool = False


class LlamaSuccess(Struct, frozen=True):
    success: bool = True
