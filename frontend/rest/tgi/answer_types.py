"""The JSON that TGI's clients read. The Structs are encoded as they are, and are the schemas of `/openapi.json`."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

FinishReason = Literal["length", "eos_token", "stop_sequence"]


class TgiToken(Struct, frozen=True, kw_only=True):
    id: int
    text: str
    """What it adds to the answer: nothing where it ends within a character."""
    logprob: float | None
    """null: minus infinity."""
    special: bool


class TgiPrefillToken(Struct, frozen=True, kw_only=True):
    id: int
    text: str
    logprob: float | None
    """null of the first, which follows nothing; or minus infinity."""


class TgiSequence(Struct, frozen=True, kw_only=True):
    """An answer that was not the best."""

    generated_text: str
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[TgiPrefillToken] = []
    tokens: list[TgiToken]
    top_tokens: list[list[TgiToken]] | UnsetType = UNSET


class TgiDetails(Struct, frozen=True, kw_only=True):
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    """null where nothing was drawn."""
    prefill: list[TgiPrefillToken] = []
    """The inputs' tokens, with decoder_input_details."""
    tokens: list[TgiToken]
    best_of_sequences: list[TgiSequence] | UnsetType = UNSET
    top_tokens: list[list[TgiToken]] | UnsetType = UNSET


class TgiAnswer(Struct, frozen=True, kw_only=True):
    generated_text: str
    details: TgiDetails | UnsetType = UNSET


class TgiEventDetails(Struct, frozen=True, kw_only=True):
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    input_length: int


class TgiEvent(Struct, frozen=True, kw_only=True):
    """One token of a stream. The last one has the whole text, and the details if they were asked for."""

    index: int
    token: TgiToken
    top_tokens: list[TgiToken] | UnsetType = UNSET
    generated_text: str | None = None
    details: TgiEventDetails | None = None


class TgiInfo(Struct, frozen=True, kw_only=True):
    model_id: str
    model_sha: None = None
    model_pipeline_tag: None = None
    max_concurrent_requests: int
    """That wait, beside those that are answered."""
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int = 1
    max_client_batch_size: int = 1
    router: str = "tandem"
    version: str
    """Tandem's."""
    sha: None = None
    docker_label: None = None
