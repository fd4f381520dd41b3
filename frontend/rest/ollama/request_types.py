"""The JSON that Ollama's clients send: what is supported, what means nothing, and what is refused by name.

Each Struct is both the parser's type and the schema in `/openapi.json`. Defaults are Ollama's, whatever the model's own
are. null is the same as leaving a parameter out. Does not know HTTP or how answers look.
"""

from types import MappingProxyType
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from frontend.fields import Off

Name = Annotated[str, Meta(max_length=256)]
JsonObject = dict[str, Any]
Text = str | None
Hint = Annotated[bool | int | float | None, Meta(description="Accepted; says how Ollama shall use its machine.")]
KeepAlive = Annotated[
    int | float | str | None,
    Meta(description="Accepted; models stay loaded here. 0 without a prompt or messages asks to unload: refused."),
]
FormatGiven = Annotated[JsonObject | str | None, Meta(description='"json", or a JSON schema that is followed.')]
Think = Annotated[
    Literal["low", "medium", "high", "max"] | bool | None,
    Meta(description="Whether the model reasons before it answers. Default: if it can."),
]
TopLogprobs = Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": 20})]
Penalty = Annotated[float, Meta(description="0 is off.", extra_json_schema={"minimum": -2, "maximum": 2})]


class OllamaOptions(Struct, frozen=True, kw_only=True):
    num_predict: Annotated[int, Meta(description="Tokens at most. 0 and less: what is left of the context.")] = -1
    num_ctx: Annotated[
        int | None,
        Meta(description="How much context is wanted: more than there is is refused, for less all of it is there."),
    ] = None
    num_keep: Annotated[int | None, Meta(description="Accepted; nothing of a prompt is ever dropped here.")] = None
    temperature: Annotated[float, Meta(description="0 is greedy.", extra_json_schema={"minimum": 0, "maximum": 2})] = (
        0.8
    )
    top_k: Annotated[int, Meta(description="0 and -1 keep all.", extra_json_schema={"minimum": -1})] = 40
    top_p: Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": 1})] = 0.9
    min_p: Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": 1})] = 0.0
    repeat_penalty: Annotated[
        float, Meta(description="1 is off.", extra_json_schema={"minimum": 0.01, "maximum": 100})
    ] = 1.0
    repeat_last_n: Annotated[
        int | None,
        Meta(
            description="-1: penalties look back over everything, as they do by default. 0: there are none.",
            extra_json_schema={"minimum": -1},
        ),
    ] = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    seed: Annotated[int, Meta(description="Same seed, same text. -1: random.")] = -1
    stop: Annotated[list[str], Meta(extra_json_schema={"maxItems": 16})] = []
    numa: Hint = None
    num_batch: Hint = None
    num_gpu: Hint = None
    main_gpu: Hint = None
    low_vram: Hint = None
    use_mmap: Hint = None
    use_mlock: Hint = None
    num_thread: Hint = None
    draft_num_predict: Hint = None


class OllamaAsk(Struct, frozen=True, kw_only=True):
    """What both generating endpoints take."""

    model: str
    stream: bool = True
    format: FormatGiven = None
    options: OllamaOptions = field(default_factory=OllamaOptions)
    keep_alive: KeepAlive = None
    think: Think = None
    logprobs: bool = False
    top_logprobs: TopLogprobs = 0


class OllamaGenerateRequest(OllamaAsk, frozen=True, kw_only=True):
    prompt: Annotated[str, Meta(description="Without one, nothing is generated.")] = ""
    suffix: Annotated[str, Meta(description="What stands after the answer, for models with tokens for that.")] = ""
    system: str = ""
    raw: Annotated[bool, Meta(description="The prompt is taken as it is, without the chat template.")] = False
    context: Annotated[list[int], Meta(description="Of an earlier answer, which this prompt goes on after.")] = []


class OllamaFunction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=128)]
    arguments: JsonObject = {}
    index: Annotated[int | None, Meta(description="Accepted; calls are taken in their order.")] = None


class OllamaCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call in a message."""

    function: OllamaFunction
    id: Name | None = None
    type: Literal["function"] = "function"


class OllamaMessage(Struct, frozen=True, kw_only=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: Annotated[Text, Meta(description="What an assistant thought before it answered.")] = None
    tool_calls: Annotated[list[OllamaCall], Meta(extra_json_schema={"maxItems": 256})] = []
    tool_name: Annotated[Name | None, Meta(description="The tool whose answer this is.")] = None
    tool_call_id: Name | None = None


class OllamaToolFunction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(description="Letters, digits and _ . : / -", max_length=128)]
    description: Text = None
    parameters: Annotated[JsonObject | None, Meta(description="JSON schema of the arguments.")] = None


class OllamaTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"] = "function"
    function: OllamaToolFunction


class OllamaChatRequest(OllamaAsk, frozen=True, kw_only=True):
    messages: Annotated[list[OllamaMessage], Meta(description="Without any, nothing is generated.")] = []
    tools: Annotated[list[OllamaTool], Meta(extra_json_schema={"maxItems": 256})] = []


class OllamaShowRequest(Struct, frozen=True, kw_only=True):
    model: str = ""
    name: Annotated[str, Meta(description="As model was called before.")] = ""


OPTIONS_OFF: Off = MappingProxyType(
    {
        "embedding_only": (False,),
        "f16_kv": (),
        "logits_all": (False,),
        "mirostat": (0,),
        "mirostat_eta": (0.1,),
        "mirostat_tau": (5.0, 5),
        "penalize_newline": (True,),
        "tfs_z": (1.0, 1),
        "typical_p": (1.0, 1),
        "vocab_only": (False,),
    }
)
_ASK_OFF: Off = MappingProxyType(
    {
        "_debug_render_only": (False,),
        "shift": (False,),
        "truncate": (False,),
    }
)
GENERATE_OFF: Off = MappingProxyType(
    {**_ASK_OFF, "height": (), "images": ([],), "steps": (), "template": ("",), "width": ()}
)
CHAT_OFF: Off = _ASK_OFF
MESSAGE_OFF: Off = MappingProxyType({"images": ([],)})
SHOW_OFF: Off = MappingProxyType({"options": ({},), "system": ("",), "template": ("",), "verbose": (False,)})
