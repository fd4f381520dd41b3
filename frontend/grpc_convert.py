"""Messages of tandem.v1 from and to the values of `frontend.request`, `frontend.events` and `frontend.api`. Pure.

An `optional` field that is not there becomes None, so that the model's default applies and not zero.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

from engine.errors import InvalidRequest
from engine.pooling import Pooling
from frontend import embedding
from frontend.api import ServedModel, WorkerStatus
from frontend.checks import MAX_LOGIT_BIAS, MAX_PROMPT_IDS, MAX_STOP_STRINGS, MAX_STOP_TOKEN_IDS, check_count
from frontend.events import (
    CallDelta,
    Delta,
    Event,
    Finish,
    Finished,
    PromptLogprobs,
    PromptToken,
    Started,
    Timing,
    TokenLogprob,
    TokenLogprobs,
)
from frontend.grpc_chat import chat
from frontend.request import Chat, GenerateRequest, Grammar, GrammarKind, Infill, Prompt, TokenPrompt
from protos import generate_pb2 as pb

TRACE_HEADERS = ("traceparent", "tracestate")

_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
_STOPPING = ("max_tokens", "min_tokens")
_PATHS = {
    **{name: f"sampling.{name}" for name in (*_SAMPLING, "logit_bias")},
    **{name: f"stopping.{name}" for name in (*_STOPPING, "stop", "stop_token_ids", "include_stop", "ignore_eos")},
    **{name: f"output.{name}" for name in ("logprobs", "skip_special_tokens", "separate_reasoning", "prompt_logprobs")},
    **{
        name: f"chat.{name}"
        for name in (
            *("messages", "tools", "tool_choice", "documents", "template_kwargs", "continue_final_message"),
            "reasoning_effort",
        )
    },
    "truncate_prompt": "truncate_prompt_tokens",
    "tell_prompt": "output.prompt_token_ids",
}
_MOST_ENTRIES = 16_384
"""Of log-probabilities in one message: clients take 4 MiB unless they say more."""
_POOLINGS = {
    pb.POOLING_UNSPECIFIED: None,
    pb.POOLING_MEAN: Pooling.MEAN,
    pb.POOLING_LAST: Pooling.LAST,
}
_REASONS = {
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
    Finish.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
}


def field_path(name: str) -> str:
    """Where the field that `frontend.request` calls `name` stands in tandem.v1.GenerateRequest."""
    return _PATHS.get(name, name)


def generate_request(
    message: pb.GenerateRequest, metadata: Mapping[str, str | bytes], deadline_s: float | None
) -> GenerateRequest:
    """Raises InvalidRequest when there is no prompt, too much of something, or a grammar that says nothing."""
    stopping, output = message.stopping, message.output
    check_count(message.sampling.logit_bias, MAX_LOGIT_BIAS, field_path("logit_bias"))
    check_count(stopping.stop, MAX_STOP_STRINGS, field_path("stop"))
    check_count(stopping.stop_token_ids, MAX_STOP_TOKEN_IDS, field_path("stop_token_ids"))
    return GenerateRequest(
        prompt=_prompt(message),
        model=message.model or None,
        logit_bias=dict(message.sampling.logit_bias),
        stop=tuple(stopping.stop),
        stop_token_ids=tuple(stopping.stop_token_ids),
        include_stop=stopping.include_stop,
        ignore_eos=stopping.ignore_eos,
        logprobs=output.logprobs if output.HasField("logprobs") else None,
        skip_special_tokens=output.skip_special_tokens if output.HasField("skip_special_tokens") else True,
        grammar=_grammar(message.grammar) if message.HasField("grammar") else None,
        separate_reasoning=output.separate_reasoning if output.HasField("separate_reasoning") else True,
        format_only=_is_of_content(message),
        prompt_logprobs=output.prompt_logprobs if output.HasField("prompt_logprobs") else None,
        tell_prompt=output.prompt_token_ids,
        add_special_tokens=message.add_special_tokens if message.HasField("add_special_tokens") else None,
        truncate_prompt=message.truncate_prompt_tokens if message.HasField("truncate_prompt_tokens") else None,
        cache_salt=message.cache_salt if message.HasField("cache_salt") else None,
        deadline_s=deadline_s,
        trace_headers=_trace_headers(metadata),
        **{name: getattr(message.sampling, name) for name in _SAMPLING if message.sampling.HasField(name)},
        **{name: getattr(stopping, name) for name in _STOPPING if stopping.HasField(name)},
    )


def _is_of_content(message: pb.GenerateRequest) -> bool:
    if not message.grammar.content_only:
        return False
    if message.grammar.WhichOneof("kind") not in ("json_schema", "json_object") or not message.HasField("chat"):
        raise InvalidRequest("content_only is for JSON in the answer to a chat", field="grammar.content_only")
    return True


def _prompt(message: pb.GenerateRequest) -> Prompt:
    match message.WhichOneof("prompt"):
        case "text":
            return message.text
        case "token_ids":
            check_count(message.token_ids.ids, MAX_PROMPT_IDS, "prompt")
            return TokenPrompt(tuple(message.token_ids.ids))
        case "chat":
            return chat(message.chat)
        case "infill":
            return Infill(message.infill.prefix, message.infill.suffix)
        case _:
            raise InvalidRequest("prompt is missing: set text, token_ids, chat or infill", field="prompt")


def _grammar(message: pb.Grammar) -> Grammar:
    match message.WhichOneof("kind"):
        case "json_schema":
            return Grammar(GrammarKind.JSON_SCHEMA, message.json_schema)
        case "json_object":
            return Grammar(GrammarKind.JSON_OBJECT)
        case "regex":
            return Grammar(GrammarKind.REGEX, message.regex)
        case "choice":
            return Grammar(GrammarKind.CHOICE, json.dumps(list(message.choice.texts)))
        case "lark":
            return Grammar(GrammarKind.LARK, message.lark)
        case "structural_tag":
            return Grammar(GrammarKind.STRUCTURAL_TAG, message.structural_tag)
        case _:
            raise InvalidRequest("grammar is empty: set one of its kinds", field="grammar")


def tokenize_input(message: pb.TokenizeRequest) -> str | Chat:
    """Raises InvalidRequest when there is no input."""
    match message.WhichOneof("input"):
        case "text":
            return message.text
        case "chat":
            return chat(message.chat)
        case _:
            raise InvalidRequest("input is missing: set text or chat", field="input")


def embedding_request(
    message: pb.EmbedRequest, model: ServedModel, metadata: Mapping[str, str | bytes], deadline_s: float | None
) -> GenerateRequest:
    """Raises InvalidRequest when there is no input, and for a pooling that nobody has."""
    match message.WhichOneof("input"):
        case "text":
            prompt: str | TokenPrompt = message.text
        case "token_ids":
            check_count(message.token_ids.ids, MAX_PROMPT_IDS, "token_ids")
            prompt = TokenPrompt(tuple(message.token_ids.ids))
        case _:
            raise InvalidRequest("input is missing: set text or token_ids", field="input")
    if message.pooling not in _POOLINGS:
        raise InvalidRequest(f"there is no pooling {message.pooling}", field="pooling")
    request = embedding.embedding_request(prompt, model.name, _POOLINGS[message.pooling] or model.pooling)
    return replace(request, deadline_s=deadline_s, trace_headers=_trace_headers(metadata))


def embedded(message: pb.EmbedRequest, model: ServedModel, finished: Finished) -> pb.EmbedResponse:
    normalize = message.normalize if message.HasField("normalize") else True
    values = embedding.floats(finished.vector)
    return pb.EmbedResponse(
        values=embedding.unit(values) if normalize else values,
        prompt_tokens=finished.usage.prompt_tokens,
        model=model.name,
    )


def _trace_headers(metadata: Mapping[str, str | bytes]) -> dict[str, str]:
    return {name: str(metadata[name]) for name in TRACE_HEADERS if name in metadata}


def fill(response: pb.GenerateResponse, event: Event) -> None:
    """Make `response`, which is empty, say `event`. One message serves a whole stream: most of them are small."""
    match event:
        case Delta():
            delta = response.delta
            delta.text, delta.first_index = event.text, event.first_index
            delta.token_ids.extend(event.token_ids)
            if event.logprobs:
                delta.logprobs.extend(map(_logprobs, event.logprobs))
            if event.reasoning:
                delta.reasoning = event.reasoning
            if event.calls:
                delta.tool_calls.extend(map(_call, event.calls))
        case Started():
            response.started.CopyFrom(
                pb.Started(
                    request_id=event.request_id,
                    model=event.model,
                    prompt_tokens=event.prompt_tokens,
                    seed=event.seed,
                    prompt_token_ids=event.prompt_ids,
                )
            )
        case PromptLogprobs(tokens):
            response.prompt_logprobs.first_index = event.first_index
            response.prompt_logprobs.tokens.extend(map(_prompt_token, tokens))
        case Finished():
            response.finished.CopyFrom(_finished(event))


def _finished(event: Finished) -> pb.Finished:
    usage, matched = event.usage, event.matched
    return pb.Finished(
        reason=_REASONS[event.reason],
        stop_string=matched if isinstance(matched, str) else None,
        stop_token_id=matched if isinstance(matched, int) else None,
        usage=pb.Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        ),
        timing=pb.Timing(
            ttft_ms=event.timing.ttft_ms,
            ttft_segments=_segments(event.timing.ttft_segments),
            second_token_ms=event.timing.second_token_ms,
            second_token_segments=_segments(event.timing.second_token_segments),
            client_ms=event.timing.client_ms,
            cached_share=event.timing.cached_share,
            clock_within_ms=event.timing.clock_within_ms,
        ),
    )


def split(event: PromptLogprobs) -> Iterable[PromptLogprobs]:
    """As many of them as the messages that it takes."""
    tokens = event.tokens
    at_once = max(_MOST_ENTRIES // (1 + max(len(token.top) for token in tokens)), 1)
    return (PromptLogprobs(tokens[first : first + at_once], first) for first in range(0, len(tokens), at_once))


def _prompt_token(token: PromptToken) -> pb.PromptToken:
    return pb.PromptToken(
        token_id=token.token_id,
        token=token.token,
        logprob=token.logprob,
        rank=token.rank,
        top=[_logprob(each) for each in token.top],
    )


def _call(call: CallDelta) -> pb.ToolCallDelta:
    return pb.ToolCallDelta(index=call.index, id=call.id, name=call.name, arguments=call.arguments)


def _segments(segments: Mapping[str, float]) -> list[pb.Segment]:
    return [pb.Segment(name=name, ms=ms) for name, ms in segments.items()]


def _logprobs(logprobs: TokenLogprobs) -> pb.TokenLogprobs:
    return pb.TokenLogprobs(chosen=_logprob(logprobs.chosen), top=[_logprob(each) for each in logprobs.top])


def _logprob(logprob: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(token_id=logprob.token_id, logprob=logprob.logprob, token=logprob.token)


def timing_trailers(timing: Timing) -> tuple[tuple[str, str], ...]:
    """The ledger as trailing metadata: all of it as compact JSON, and the one number most want."""
    ledger: dict[str, object] = {"ttft_ms": _us(timing.ttft_ms), "ttft_segments": _rounded(timing.ttft_segments)}
    if timing.second_token_ms is not None:
        ledger["second_token_ms"] = _us(timing.second_token_ms)
        ledger["second_token_segments"] = _rounded(timing.second_token_segments)
    if timing.client_ms:
        ledger["client_ms"] = _us(timing.client_ms)
    if timing.cached_share:
        ledger["cached_share"] = round(timing.cached_share, 3)
    if timing.clock_within_ms is not None:
        ledger["clock_within_ms"] = _us(timing.clock_within_ms)
    return (
        ("tandem-timing", json.dumps(ledger, separators=(",", ":"))),
        ("tandem-ttft-ms", f"{timing.ttft_ms:.3f}"),
    )


def _rounded(segments: Mapping[str, float]) -> dict[str, float]:
    return {name: _us(ms) for name, ms in segments.items()}


def _us(ms: float) -> float:
    """To the microsecond."""
    return round(ms, 3)


def model(served: ServedModel) -> pb.Model:
    return pb.Model(
        name=served.name,
        max_context=served.max_context,
        vocab_size=served.vocab_size,
        has_chat_template=served.has_chat_template,
    )


def worker(status: WorkerStatus) -> pb.WorkerInfo:
    return pb.WorkerInfo(
        worker_id=status.worker_id,
        role=status.role,
        address=status.address,
        model=status.model,
        ready=status.ready,
        num_blocks=status.num_blocks,
        free_blocks=status.free_blocks,
        block_tokens=status.block_tokens,
        running=status.running,
        queued=status.queued,
    )
