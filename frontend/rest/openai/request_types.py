"""The JSON that OpenAI's clients send: what is supported, what means nothing, and what is refused by name.

Each Struct is both the parser's type and the schema in `/openapi.json`. `limits` are documented here and checked where
they bind every dialect (`frontend.checks.resolve`). null is the same as leaving a parameter out.

Does not know HTTP or how answers look.
"""

from types import MappingProxyType
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from frontend.fields import Off
from frontend.rest.openai.grammar import Guided
from frontend.rest.openai.tool_types import (
    AllowedChoice,
    FunctionCall,
    FunctionRef,
    FunctionSpec,
    NamedTool,
    ToolCall,
    ToolSpec,
)


def limits(**keywords: float) -> dict[str, float]:
    """JSON schema keywords that only document."""
    return dict(keywords)


PENALTY = limits(minimum=-2, maximum=2)

Temperature = Annotated[float, Meta(description="0 is greedy.", extra_json_schema=limits(minimum=0, maximum=2))]
TopP = Annotated[
    float,
    Meta(description="Nucleus sampling; 0 keeps the likeliest token.", extra_json_schema=limits(minimum=0, maximum=1)),
]
TopK = Annotated[int, Meta(description="0 and -1 keep all.", extra_json_schema=limits(minimum=-1))]
MinP = Annotated[
    float,
    Meta(description="Least probability kept, relative to the best.", extra_json_schema=limits(minimum=0, maximum=1)),
]
Repetition = Annotated[float, Meta(description="1 is off.", extra_json_schema=limits(minimum=0.01, maximum=100))]
Penalty = Annotated[float, Meta(description="0 is off.", extra_json_schema=PENALTY)]
LogitBias = Annotated[dict[str, float], Meta(description="Token id to what is added to its logit, -100 to 100.")]
Seed = Annotated[int, Meta(description="Same seed, same text; choice i of a request uses seed + i. Default: random.")]
Stops = str | Annotated[list[str], Meta(extra_json_schema=limits(maxItems=16))]
StopIds = Annotated[
    list[int],
    Meta(description="Tokens that end the answer and are not part of it.", extra_json_schema=limits(maxItems=1024)),
]
Tokens = Annotated[int, Meta(extra_json_schema=limits(minimum=1))]
MaxTokens = Annotated[
    int,
    Meta(
        description="0: no answer, where echo, prompt_logprobs or return_token_ids tell something of the prompt.",
        extra_json_schema=limits(minimum=0),
    ),
]
Count = Annotated[int, Meta(extra_json_schema=limits(minimum=0))]
Choices = Annotated[int, Meta(description="Answers per prompt.", extra_json_schema=limits(minimum=1, maximum=16))]
Name = Annotated[str, Meta(max_length=256)]
NOT_EMPTY_LIST = Meta(extra_json_schema=limits(minItems=1))
Text = Annotated[str, Meta(extra_json_schema=limits(minLength=1))]
SPECIAL = "Default: true for a text; false for a conversation, whose template adds them."
IgnoredText = Annotated[str, Meta(description="Accepted; means nothing here.")]
IgnoredMap = Annotated[dict[str, str], Meta(description="Accepted; means nothing here.")]


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class StreamOptions(Struct, frozen=True, kw_only=True):
    include_usage: Annotated[bool, Meta(description="Send one more chunk, with the usage.")] | None = None
    continuous_usage_stats: Annotated[bool, Meta(description="Send the usage so far in every chunk.")] | None = None


class Sampling(Guided, frozen=True, kw_only=True):
    """What both generating endpoints take."""

    model: str
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: Repetition | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    seed: Seed | None = None
    n: Choices | None = None
    max_tokens: MaxTokens | None = None
    min_tokens: Count | None = None
    stop: Stops | None = None
    stop_token_ids: StopIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: (
        Annotated[
            int,
            Meta(
                description="How likely each token of the prompt is, and so many of the likeliest ones in its place; "
                "not in a stream.",
                extra_json_schema=limits(minimum=0, maximum=20),
            ),
        ]
        | None
    ) = None
    return_token_ids: Annotated[bool, Meta(description="Tell the tokens of prompts and answers.")] | None = None
    add_special_tokens: Annotated[bool, Meta(description=SPECIAL)] | None = None
    truncate_prompt_tokens: (
        Annotated[Tokens, Meta(description="Only so many of the last tokens of the prompt count.")] | None
    ) = None
    cache_salt: (
        Annotated[str, Meta(description="Prompts with another, or none, share nothing in the cache.", max_length=1024)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: IgnoredText | None = None
    metadata: IgnoredMap | None = None
    safety_identifier: IgnoredText | None = None
    prompt_cache_key: IgnoredText | None = None
    service_tier: Literal["auto", "default"] | None = None


class TextPart(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class Message(Struct, frozen=True, kw_only=True):
    """`content` may be missing where an assistant calls tools."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[TextPart], Meta(min_length=1)] | None = None
    name: Name | None = None
    tool_call_id: Name | None = None
    tool_calls: Annotated[list[ToolCall], Meta(extra_json_schema=limits(maxItems=256))] | None = None
    function_call: Annotated[FunctionCall, Meta(description="As one call was spelled before.")] | None = None
    reasoning_content: Annotated[str, Meta(description="What an assistant thought before it answered.")] | None = None
    reasoning: Annotated[str, Meta(description="The same as reasoning_content.")] | None = None


class ChatCompletionRequest(Sampling, frozen=True, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Annotated[Tokens, Meta(description="Default: what is left of the context.")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Count, Meta(extra_json_schema=limits(maximum=20))] | None = None
    add_generation_prompt: Annotated[bool, Meta(description="Default: true.")] | None = None
    continue_final_message: (
        Annotated[bool, Meta(description="The answer goes on where the last message ends.")] | None
    ) = None
    tools: Annotated[list[ToolSpec], Meta(extra_json_schema=limits(maxItems=256))] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedChoice | None = None
    parallel_tool_calls: Annotated[bool, Meta(description="false: the answer ends with its first call.")] | None = None
    functions: Annotated[list[FunctionSpec], Meta(description="As tools were spelled before.")] | None = None
    function_call: Literal["none", "auto"] | FunctionRef | None = None
    documents: Annotated[list[dict[str, Any]], Meta(description="For templates that know documents.")] | None = None
    chat_template_kwargs: (
        Annotated[dict[str, Any], Meta(description="Variables of the chat template, like enable_thinking.")] | None
    ) = None
    reasoning_effort: (
        Annotated[Effort, Meta(description="What the model's template knows of it; medium is what the model does.")]
        | None
    ) = None
    separate_reasoning: Annotated[bool, Meta(description="false: reasoning stays in the content.")] | None = None


class CompletionRequest(Sampling, frozen=True, kw_only=True):
    prompt: Annotated[
        Text | Annotated[list[Text | int | Annotated[list[int], NOT_EMPTY_LIST]], Meta(min_length=1)],
        Meta(description="A text, a list of texts, the tokens of a text, or a list of those."),
    ]
    logprobs: Annotated[Count, Meta(extra_json_schema=limits(maximum=20))] | None = None
    echo: Annotated[bool, Meta(description="Begin the answer with the prompt; logprobs are its, too.")] | None = None
    suffix: (
        Annotated[
            str, Meta(description="What stands after the answer, for models with tokens for that; not with echo.")
        ]
        | None
    ) = None
    best_of: (
        Annotated[
            int,
            Meta(
                description="Answer that many times, and give the n likeliest.",
                extra_json_schema=limits(minimum=1, maximum=16),
            ),
        ]
        | None
    ) = None


COMMON_OFF: Off = MappingProxyType(
    {
        # OpenAI
        "store": (False,),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        # vLLM and SGLang
        "allowed_token_ids": (),
        "bad_words": ([],),
        "custom_params": (),
        "ebnf": (),
        "guided_decoding_backend": (),
        "guided_whitespace_pattern": (),
        "json_schema": (),
        "kv_transfer_params": (),
        "length_penalty": (1.0, 1),
        "logits_processors": ([],),
        "logprob_token_ids": (),
        "lora_path": (),
        "no_stop_trim": (False,),
        "priority": (0,),
        "regex": (),
        "request_id": (),
        "return_hidden_states": (False,),
        "return_prompt_text": (False,),
        "return_tokens_as_token_ids": (False,),
        "rid": (),
        "session_id": (),
        "spaces_between_special_tokens": (True,),
        "stream_interval": (1,),
        "truncation_side": ("left",),
        "use_beam_search": (False,),
        "vllm_xargs": (),
    }
)
CHAT_OFF: Off = MappingProxyType(
    {
        **COMMON_OFF,
        "audio": (),
        "best_of": (1,),
        "chat_template": (),
        "echo": (False,),
        "include_reasoning": (True,),
        "mm_processor_kwargs": ({},),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "stream_reasoning": (True,),
        "thinking_token_budget": (),
        "verbosity": ("medium",),
        "web_search_options": (),
    }
)
COMPLETION_OFF: Off = COMMON_OFF
STREAM_OPTIONS_OFF: Off = MappingProxyType({"include_obfuscation": (False,)})
STRUCTURED_OFF: Off = MappingProxyType(
    {
        "disable_additional_properties": (False,),
        "disable_any_whitespace": (False,),
        "disable_fallback": (False,),
        "whitespace_pattern": (),
    }
)
MESSAGE_OFF: Off = MappingProxyType(
    {
        "annotations": ([],),
        "audio": (),
        "refusal": (),
    }
)
PART_TYPES = frozenset({"image_url", "input_audio", "audio_url", "video_url", "file", "refusal", "thinking"})
"""Kinds of content parts that are known and not supported."""
