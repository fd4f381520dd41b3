"""The JSON that clients of llama.cpp's server send: what is supported, what means nothing, what is refused by name.

Each Struct is both the parser's type and the schema in `/openapi.json`. null is the same as leaving a parameter out.
Does not know HTTP or how answers look.
"""

from types import MappingProxyType
from typing import Annotated, Any

from msgspec import Meta, Struct

from frontend.fields import Off


def limits(**keywords: float) -> dict[str, float]:
    """JSON schema keywords that only document; they are checked where they bind every dialect."""
    return dict(keywords)


Part = int | str
"""Of a prompt: a token, or text."""


class PromptObject(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt as multimodal models have it; there must be no data."""

    prompt_string: str | list[Part]
    multimodal_data: Annotated[list[str], Meta(extra_json_schema=limits(maxItems=0))] | None = None


Prompt = str | list[Part | list[Part] | PromptObject] | PromptObject
Bias = Annotated[float | bool, Meta(description="false bans.")]
Number = Annotated[int, Meta(extra_json_schema=limits(minimum=0))]


class LlamaSampling(Struct, frozen=True, kw_only=True):
    """What both generating endpoints take."""

    model: str | None = None
    n_predict: (
        Annotated[
            int,
            Meta(
                description="-1, the default: what is left of the context. 0 draws one token, as 1 does.",
                extra_json_schema=limits(minimum=-1),
            ),
        ]
        | None
    ) = None
    max_completion_tokens: Annotated[int, Meta(description="The same as n_predict.")] | None = None
    max_tokens: Annotated[int, Meta(description="The same as n_predict.")] | None = None
    n_cmpl: Annotated[int, Meta(description="Answers per prompt.", extra_json_schema=limits(minimum=1))] | None = None
    n: Annotated[int, Meta(description="The same as n_cmpl.")] | None = None
    temperature: Annotated[float, Meta(description="Default: 0.8. 0 is greedy.")] | None = None
    top_k: Annotated[int, Meta(description="Default: 40. 0 and -1 keep all.")] | None = None
    top_p: Annotated[float, Meta(description="Default: 0.95. Cuts after the temperature was applied.")] | None = None
    min_p: Annotated[float, Meta(description="Default: 0.05.")] | None = None
    repeat_penalty: Annotated[float, Meta(description="Default: 1, off. Covers prompt and answer.")] | None = None
    repeat_last_n: (
        Annotated[
            int,
            Meta(
                description="0 turns penalties off. Where there are any, nothing else but -1, the whole text, is taken."
            ),
        ]
        | None
    ) = None
    presence_penalty: Annotated[float, Meta(description="Default: 0, off. Covers the answer.")] | None = None
    frequency_penalty: Annotated[float, Meta(description="Default: 0, off. Covers the answer.")] | None = None
    samplers: (
        Annotated[
            str | list[str],
            Meta(description="Those that are left out are off. penalties, top_k, top_p and min_p keep this order."),
        ]
        | None
    ) = None
    seed: Annotated[int, Meta(description="Of 32 bits. -1, the default: random.")] | None = None
    stop: str | Annotated[list[str], Meta(extra_json_schema=limits(maxItems=16))] | None = None
    ignore_eos: bool | None = None
    logit_bias: (
        Annotated[
            list[tuple[Part, Bias]] | dict[str, Bias],
            Meta(description="Tokens, by id or as text, and what is added to the logit of each, -100 to 100."),
        ]
        | None
    ) = None
    grammar: Annotated[str, Meta(description="GBNF.")] | None = None
    json_schema: Annotated[dict[str, Any] | bool, Meta(description="Followed to the letter.")] | None = None
    n_probs: Annotated[int, Meta(extra_json_schema=limits(minimum=0, maximum=20))] | None = None
    logprobs: Annotated[int, Meta(description="The same as n_probs.")] | None = None
    stream: bool | None = None
    return_tokens: bool | None = None
    timings_per_token: Annotated[bool, Meta(description="Only of answers that come whole.")] | None = None
    response_fields: Annotated[list[str], Meta(description="Paths like timings/predicted_ms.")] | None = None


class LlamaCompletionRequest(LlamaSampling, frozen=True, kw_only=True):
    prompt: Annotated[
        Prompt,
        Meta(
            description="A text, the tokens of one, texts and tokens mixed, or a list of those. A list with a "
            "number in it is one prompt."
        ),
    ]


class InfillExtra(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    text: str
    filename: str | None = None


class LlamaInfillRequest(LlamaSampling, frozen=True, kw_only=True):
    input_prefix: Annotated[str, Meta(description="What stands before the answer.")]
    input_suffix: Annotated[str, Meta(description="What stands after it.")]
    input_extra: Annotated[list[InfillExtra], Meta(description="Other files.")] | None = None
    prompt: Annotated[str, Meta(description="How the answer begins.")] | None = None


OFF: Off = MappingProxyType(
    {
        "adaptive_target": (-1, -1.0),
        "backend_sampling": (False,),
        "cache_prompt": (True,),
        "dry_multiplier": (0, 0.0),
        "dynatemp_range": (0, 0.0),
        "echo": (False,),
        "id_slot": (-1,),
        "lora": ([],),
        "min_keep": (0, 1),
        "mirostat": (0,),
        "n_cache_reuse": (0,),
        "n_indent": (0,),
        "post_sampling_probs": (False,),
        "return_progress": (False,),
        "sse_ping_interval": (-1, 0),
        "stream_options": ({}, {"include_usage": False}),
        "t_max_predict_ms": (-1, 0),
        "t_max_prompt_ms": (-1, 0),
        "top_n_sigma": (-1, -1.0, 0, 0.0),
        "typical_p": (1, 1.0),
        "verbose": (False,),
        "xtc_probability": (0, 0.0),
        # Of conversations, which llama.cpp makes completions of.
        "chat_format": (),
        "chat_parser": (),
        "continue_final_message": (False,),
        "generation_prompt": ("",),
        "grammar_lazy": (False,),
        "grammar_triggers": ([],),
        "grammar_type": (),
        "message_delimiters": ([],),
        "parse_tool_calls": (False,),
        "preserved_tokens": ([],),
        "reasoning_budget_end_tag": (),
        "reasoning_budget_message": (),
        "reasoning_budget_start_tag": (),
        "reasoning_budget_tokens": (-1,),
        "reasoning_control": (False,),
        "reasoning_format": ("none",),
    }
)
DETAILS = frozenset(
    {
        # Of samplers that are refused unless they are off.
        "adaptive_decay",
        "dry_allowed_length",
        "dry_base",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "dynatemp_exponent",
        "mirostat_eta",
        "mirostat_tau",
        "xtc_threshold",
        # Of a context that is shifted when it is full; this one ends the answer, as llama.cpp's does unless told to.
        "n_discard",
        "n_keep",
    }
)
"""Parameters that mean nothing here, whatever they are."""
