"""The JSON that TGI's clients send: what is supported, what means nothing, and what is refused by name.

Each Struct is both the parser's type and the schema in `/openapi.json`. null is the same as leaving a parameter out.
"""

from types import MappingProxyType
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from frontend.fields import Off


def limits(**keywords: float) -> dict[str, float]:
    """JSON schema keywords that only document."""
    return dict(keywords)


MAX_BEST_OF = 16


GREEDY = "Without it, and without a temperature, top_k or top_p that change anything: greedy."
LIKELIEST = "The likeliest of so many answers."
REST = "Default: what is left of the context."
ENDS = "Part of the answer that they end."
LAST = "Only so many of the last tokens of inputs count."

DoSample = Annotated[bool, Meta(description=GREEDY)]
Temperature = Annotated[float, Meta(extra_json_schema=limits(exclusiveMinimum=0, maximum=2))]
TopK = Annotated[int, Meta(extra_json_schema=limits(minimum=1))]
TopP = Annotated[float, Meta(extra_json_schema=limits(exclusiveMinimum=0, maximum=1))]
Repetition = Annotated[float, Meta(description="1 is off.", extra_json_schema=limits(minimum=0.01, maximum=100))]
Frequency = Annotated[float, Meta(description="0 is off.", extra_json_schema=limits(minimum=-2, maximum=2))]
BestOf = Annotated[int, Meta(description=LIKELIEST, extra_json_schema=limits(minimum=1, maximum=MAX_BEST_OF))]
MaxNewTokens = Annotated[int, Meta(description=REST, extra_json_schema=limits(minimum=1))]
Stop = Annotated[list[str], Meta(description=ENDS, extra_json_schema=limits(maxItems=16))]
Truncate = Annotated[int, Meta(description=LAST, extra_json_schema=limits(minimum=1))]
FullText = Annotated[bool, Meta(description="Put inputs before the answer.")]
TopTokens = Annotated[int, Meta(extra_json_schema=limits(minimum=0, maximum=20))]


class TgiGrammar(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the answer must match."""

    type: Annotated[
        Literal["json", "json_object", "json_schema", "regex"],
        Meta(description="json and json_object: a JSON schema; json_schema: one with a name."),
    ]
    value: Annotated[Any, Meta(description="The schema, also as text; {schema, name, strict}; or the expression.")]


class TgiParameters(Struct, frozen=True, kw_only=True):
    do_sample: DoSample | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    repetition_penalty: Repetition | None = None
    frequency_penalty: Frequency | None = None
    seed: int | None = None
    best_of: BestOf | None = None
    max_new_tokens: MaxNewTokens | None = None
    stop: Stop | None = None
    truncate: Truncate | None = None
    return_full_text: FullText | None = None
    details: bool | None = None
    decoder_input_details: (
        Annotated[bool, Meta(description="Details, and in them how likely the tokens of inputs are; not in a stream.")]
        | None
    ) = None
    top_n_tokens: TopTokens | None = None
    grammar: TgiGrammar | None = None


class TgiRequest(Struct, frozen=True, kw_only=True):
    inputs: Annotated[str, Meta(extra_json_schema=limits(minLength=1))]
    parameters: Annotated[TgiParameters, Meta(description="Without any, answers are sampled.")] | None = None


class TgiCompatRequest(TgiRequest, frozen=True, kw_only=True):
    stream: bool | None = None


PARAMETERS_OFF: Off = MappingProxyType(
    {
        "adapter_id": (),
        "typical_p": (1.0, 1),
        "watermark": (False,),
    }
)
