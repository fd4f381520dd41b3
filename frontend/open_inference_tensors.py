"""Requests of the Open Inference Protocol as `GenerateRequest`s, and answers as its tensors. Pure.

    inputs      text_input BYTES [1]; stream BOOL [1]; sampling_parameters BYTES [1], a JSON object;
                exclude_input_in_output BOOL [1], true unless it says otherwise
    parameters  of the request: the same sampling parameters, one by one
    outputs     text_output BYTES [1]; finish_reason BYTES [1], empty while the answer goes on

Names are those that Triton's and Dynamo's clients of language models send. Sampling parameters are called as in vLLM;
in the JSON object numbers may be texts, as Triton's clients write them. What is unknown is refused by name.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from engine.errors import InvalidRequest
from frontend.checks import MAX_LOGIT_BIAS, MAX_STOP_STRINGS, MAX_STOP_TOKEN_IDS, check_count
from frontend.fields import convert, supported
from frontend.request import GenerateRequest
from protos import open_inference_pb2 as pb

TEXT, STREAM, SAMPLING, EXCLUDE = "text_input", "stream", "sampling_parameters", "exclude_input_in_output"
INPUTS = {TEXT: "BYTES", STREAM: "BOOL", SAMPLING: "BYTES", EXCLUDE: "BOOL"}
ALIASES = {"streaming": STREAM}
"""Dynamo's."""
OUTPUT, FINISH = "text_output", "finish_reason"
OUTPUTS = (OUTPUT, FINISH)
LAST_IS_TOLD = "triton_enable_empty_final_response"
"""By this Triton's clients ask to be told which response is the last; they are, whatever it says."""
MOST = {"stop": MAX_STOP_STRINGS, "stop_token_ids": MAX_STOP_TOKEN_IDS, "logit_bias": MAX_LOGIT_BIAS}

Value = bool | bytes


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """What may be said of an answer besides its prompt."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request, read."""

    id: str
    request: GenerateRequest
    text: str
    stream: bool
    excludes_input: bool
    outputs: tuple[str, ...]
    raw: bool
    """Tensors come, and go, as bytes beside the messages that name them."""


def read(message: pb.ModelInferRequest) -> Wanted:
    """Raises InvalidRequest, naming the tensor or parameter at fault."""
    given = dict(_inputs(message))
    if TEXT not in given:
        raise InvalidRequest(f"the input {TEXT} is missing", field=TEXT)
    outputs = tuple(output.name for output in message.outputs) or OUTPUTS
    for name in outputs:
        if name not in OUTPUTS:
            raise InvalidRequest(f"there is no output {name[:80]!r}; there are {', '.join(OUTPUTS)}", field="outputs")
    text = _text(given[TEXT], TEXT)
    sampling = _sampling(message, given.get(SAMPLING))
    return Wanted(
        id=message.id,
        request=_request(text, message.model_name or None, sampling),
        text=text,
        stream=bool(given.get(STREAM, False)),
        excludes_input=bool(given.get(EXCLUDE, True)),
        outputs=outputs,
        raw=bool(message.raw_input_contents),
    )


def response(wanted: Wanted, model: str, text: str, finish_reason: str) -> pb.ModelInferResponse:
    """One part of the answer, or all of it."""
    values = {OUTPUT: text.encode(), FINISH: finish_reason.encode()}
    answer = pb.ModelInferResponse(model_name=model, model_version="1", id=wanted.id)
    for name in wanted.outputs:
        tensor = answer.outputs.add(name=name, datatype="BYTES", shape=[1])
        if wanted.raw:
            answer.raw_output_contents.append(len(values[name]).to_bytes(4, "little") + values[name])
        else:
            tensor.contents.bytes_contents.append(values[name])
    return answer


def _request(text: str, model: str | None, given: Sampling) -> GenerateRequest:
    return GenerateRequest(
        prompt=text,
        model=model,
        max_tokens=given.max_tokens,
        min_tokens=given.min_tokens,
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        min_p=given.min_p,
        repetition_penalty=given.repetition_penalty,
        presence_penalty=given.presence_penalty,
        frequency_penalty=given.frequency_penalty,
        logit_bias=given.logit_bias or {},
        seed=given.seed,
        stop=(given.stop,) if isinstance(given.stop, str) else tuple(given.stop or ()),
        stop_token_ids=tuple(given.stop_token_ids or ()),
        include_stop=bool(given.include_stop_str_in_output),
        ignore_eos=bool(given.ignore_eos),
        skip_special_tokens=given.skip_special_tokens is not False,
    )


def _inputs(message: pb.ModelInferRequest) -> Iterator[tuple[str, Value]]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        text = f"{len(raw)} raw contents for {len(message.inputs)} inputs"
        raise InvalidRequest(text, field="raw_input_contents")
    seen = set()
    for position, tensor in enumerate(message.inputs):
        name = ALIASES.get(tensor.name, tensor.name)
        if name not in INPUTS or name in seen:
            what = "is given twice" if name in seen else f"is unknown; there are {', '.join(INPUTS)}"
            raise InvalidRequest(f"the input {tensor.name[:80]!r} {what}", field="inputs")
        seen.add(name)
        if tensor.datatype != INPUTS[name] or any(size != 1 for size in tensor.shape):
            raise InvalidRequest(f"{name} must be one {INPUTS[name]}, of shape [1]", field=name)
        yield name, _value(name, tensor, raw[position] if raw else None)


def _value(name: str, tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Value:
    is_bool = INPUTS[name] == "BOOL"
    if raw is None:
        contents = tensor.contents.bool_contents if is_bool else tensor.contents.bytes_contents
        if len(contents) != 1:
            raise InvalidRequest(f"{name} has {len(contents)} values; it has one", field=name)
        value: Value = contents[0]
        return value
    if is_bool:
        if raw not in (b"\0", b"\1"):
            raise InvalidRequest(f"{name} must be one byte, 0 or 1", field=name)
        return raw == b"\1"
    if len(raw) < 4 or int.from_bytes(raw[:4], "little") != len(raw) - 4:
        raise InvalidRequest(f"{name} must be one text: its length in 4 bytes, then itself", field=name)
    return raw[4:]


def _text(value: Value, name: str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else ""
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name} is not UTF-8", field=name) from error


def _sampling(message: pb.ModelInferRequest, told: Value | None) -> Sampling:
    """From the JSON object and from the parameters beside it, which must not say the same twice."""
    fields: dict[str, object] = {}
    if told:
        try:
            decoded = msgspec.json.decode(_text(told, SAMPLING))
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{SAMPLING} is not JSON: {error}", field=SAMPLING) from error
        if not isinstance(decoded, dict):
            raise InvalidRequest(f"{SAMPLING} must be a JSON object", field=SAMPLING)
        fields.update(decoded)
    for name, parameter in message.parameters.items():
        if name == LAST_IS_TOLD and parameter.WhichOneof("parameter_choice") == "bool_param":
            continue
        if name in fields:
            raise InvalidRequest(f"{name} is both a parameter and in {SAMPLING}", field=name)
        kind = parameter.WhichOneof("parameter_choice")
        fields[name] = None if kind is None else getattr(parameter, kind)
    fields = supported(fields, Sampling, {})
    for name, most in MOST.items():
        if isinstance(listed := fields.get(name), list | dict):
            check_count(listed, most, name)
    try:
        return convert(fields, Sampling, strict=False)  # Triton's clients write numbers as texts
    except InvalidRequest as error:
        error.field = (error.field or SAMPLING).partition("[")[0]
        raise
