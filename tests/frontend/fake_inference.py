"""A scripted `frontend.api.Inference`, so that a dialect can be tested without workers.

Requests are checked as the real one checks them (`resolve`), then play the script: events are yielded, exceptions
raised, functions called, and an `asyncio.Event` is waited for. Tokens are bytes; texts are tokenized as UTF-8.
"""

import asyncio
import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from engine.errors import UnknownModel, Unsupported
from frontend.accounts import Accounts
from frontend.api import ModelStatus, Readiness, ServedModel, WorkerStatus
from frontend.callers import ANYBODY, Caller
from frontend.checks import ModelLimits, check_token_ids, resolve
from frontend.events import (
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
    Usage,
)
from frontend.recorder import Recorder
from frontend.request import Chat, GenerateRequest, Infill, TokenPrompt
from frontend.tally import Counts
from frontend.text.spans import Span

MODEL = "org/demo"
VOCAB_SIZE = 257
EOS = 256
MAX_CONTEXT = 4096
TIMING = Timing(12.5, {"admit": 2.5, "prefill_compute": 10.0}, 3.25, {"decode_step": 3.25}, clock_within_ms=0.125)

VECTOR = struct.pack("<2f", 3.0, -4.0)
"""Of every prompt."""

Step = Event | Exception | asyncio.Event | Callable[[], None]


def say(*texts: str, reason: Finish = Finish.STOP, matched: str | int | None = EOS) -> list[Step]:
    """The script of an answer of one Delta per text, each of as many tokens as bytes; Started is put before it."""
    steps: list[Step] = []
    num_tokens = 0
    for text in texts:
        ids = tuple(text.encode())
        is_last = len(steps) == len(texts) - 1
        steps.append(Delta(text, ids, num_tokens, tuple(map(logprobs_of, ids)), is_last=is_last))
        num_tokens += len(ids)
    return [*steps, Finished(reason, matched, Usage(0, num_tokens, 1), TIMING)]


def logprobs_of(token: int) -> TokenLogprobs:
    """Half for the token, a quarter for the next one of the vocabulary, never for its predecessor."""
    named = [TokenLogprob(token + offset, logprob, bytes([(token + offset) % 256])) for offset, logprob in _TOP]
    return TokenLogprobs(named[0], tuple(named))


def prompt_logprobs_of(ids: Sequence[int], top: int) -> PromptLogprobs:
    """Every token is the second likeliest in its place, and less likely by the place."""
    first, *others = (PromptToken(token, bytes([token % 256])) for token in ids)
    told = [
        token._replace(
            logprob=-1.0 - place,
            rank=2,
            top=(TokenLogprob(256, -0.25, b"</s>"), TokenLogprob(token.token_id, -1.0 - place, token.token))[:top],
        )
        for place, token in enumerate(others, 1)
    ]
    return PromptLogprobs((first, *told))


_TOP = ((0, -0.5), (1, -1.5), (-1, float("-inf")))


class FakeVocabulary:
    """Of bytes, and a token that ends an answer."""

    special_ids = frozenset({EOS})

    def word(self, token_id: int) -> str:
        return "</s>" if token_id == EOS else f"<{token_id:02x}>"

    def spans(self, text: str, *, add_special_tokens: bool = True) -> list[Span]:
        """Every byte stands where its character does; with special tokens, the last one is added."""
        spans = [Span(byte, place, place + 1) for place, char in enumerate(text) for byte in char.encode()]
        return [*spans, *([Span(EOS, 0, 0)] if add_special_tokens else ())]


class FakeInference:
    """`script` is played for every request; `scripts` overrides it for the first requests, one each."""

    def __init__(self, script: Sequence[Step] | None = None, *, scripts: Iterable[Sequence[Step]] = ()) -> None:
        self.script = say("Hel", "lo", "!") if script is None else list(script)
        self.scripts = [list(script) for script in scripts]
        self.requests: list[GenerateRequest] = []
        self.running = 0
        """Generators that have begun and are not closed."""
        self.idle = asyncio.Event()
        """Set whenever `running` falls to 0."""
        self.began = asyncio.Semaphore(0)
        """Released by every generator that begins."""
        self.state = Readiness(True, "")
        self.queued_requests = 0
        self.queued_tokens = 0
        self.max_queued_requests = 8
        self.recorder = Recorder()
        self.accounts = Accounts()
        self.names = [MODEL]
        """Of models that can be asked; the first is the default."""
        self.answers = MODEL
        """Who says that it answers, whoever was asked."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        number = len(self.requests)
        script = self.scripts.pop(0) if self.scripts else self.script
        self.running += 1
        self.idle.clear()
        self.began.release()
        try:
            self.model(request.model, request.caller)
            prompt, seed = self._check(request)
            num_prompt = len(prompt)
            taken = False
            for step in script:
                match step:
                    case asyncio.Event():
                        await step.wait()
                    case Exception():
                        raise step
                    case Delta() if request.max_tokens == 0:
                        continue
                    case Started() | PromptLogprobs() | Delta() | Finished():
                        if not taken:
                            taken = True
                            told = tuple(prompt) if request.tell_prompt else ()
                            yield Started(f"req-{number}", self.answers, num_prompt, seed, prompt_ids=told)
                            if prompt and request.prompt_logprobs is not None:
                                yield prompt_logprobs_of(prompt, request.prompt_logprobs)
                        yield self._fitted(step, request, num_prompt)
                    case _:
                        step()
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    def _check(self, request: GenerateRequest) -> tuple[Sequence[int], int]:
        if isinstance(request.prompt, Infill):
            raise Unsupported("this model cannot", field="infill")
        if isinstance(request.prompt, TokenPrompt):
            ids: Sequence[int] = request.prompt.ids
            check_token_ids(request.prompt.ids, VOCAB_SIZE, "prompt")
        else:
            ids = self.tokenize(request.model, request.prompt, add_special_tokens=request.add_special_tokens)
        if request.truncate_prompt is not None:
            ids = ids[-request.truncate_prompt :]
        limits = ModelLimits(vocab_size=VOCAB_SIZE, max_context=MAX_CONTEXT, eos_token_ids=frozenset({EOS}))
        return ids, resolve(request, len(ids), limits).seed

    def _fitted(self, event: Event, request: GenerateRequest, num_prompt: int) -> Event:
        """`event` with what depends on the request: logprobs only when asked for, the length of the prompt."""
        match event:
            case Delta():
                top = request.logprobs
                logprobs = () if top is None else tuple(TokenLogprobs(e.chosen, e.top[:top]) for e in event.logprobs)
                return event._replace(logprobs=logprobs)
            case Finished():
                if request.max_tokens == 0:
                    return Finished(Finish.LENGTH, None, Usage(num_prompt, 0, 0), event.timing)
                usage = replace(event.usage, prompt_tokens=num_prompt)
                return replace(event, usage=usage, vector=VECTOR if request.pooling else b"")
            case _:
                return event

    def tokenize(self, model: str | None, text: str | Chat, *, add_special_tokens: bool | None = None) -> list[int]:
        """Nothing but a conversation that asks for it gets a special token."""
        self.model(model)
        if isinstance(text, Chat):
            return [EOS] * bool(add_special_tokens) + list(self.render(model, text).encode())
        return list(text.encode())

    def render(self, model: str | None, chat: Chat) -> str:
        self.model(model)
        return "".join(f"{message['role']}:{message['content']}\n" for message in chat.messages)

    def detokenize(self, model: str | None, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        self.model(model)
        check_token_ids(tuple(token_ids), VOCAB_SIZE, "token_ids")
        return bytes(token for token in token_ids if token < 256).decode(errors="replace")

    def token_bytes(self, model: str | None, token_id: int) -> bytes:
        self.model(model)
        check_token_ids((token_id,), VOCAB_SIZE, "token_id")
        return bytes([token_id]) if token_id < 256 else b"</s>"

    def vocabulary(self, model: str | None) -> "FakeVocabulary":
        self.model(model)
        return FakeVocabulary()

    def tokenizer_config(self, model: str | None) -> Mapping[str, object]:
        self.model(model)
        return {"tokenizer_class": "ByteTokenizer", "eos_token": "</s>", "chat_template": "{{ messages }}"}

    def models(self, caller: Caller = ANYBODY) -> list[ServedModel]:
        return [self.model(name) for name in self.names if caller.may_ask(name)]

    def model(self, name: str | None, caller: Caller = ANYBODY) -> ServedModel:
        if name and name not in self.names:
            raise UnknownModel(f"the model {name!r} is not served here", field="model")
        caller.check_model(name or MODEL)
        return ServedModel(
            name=name or MODEL,
            created=1_700_000_000,
            max_context=MAX_CONTEXT,
            vocab_size=VOCAB_SIZE,
            has_chat_template=True,
        )

    def statuses(self) -> list[ModelStatus]:
        return [
            ModelStatus(
                name=name,
                aliases=(),
                fallback=(),
                ready=self.state.ready,
                reason=self.state.reason,
                queued_requests=self.queued_requests,
                max_queued_requests=self.max_queued_requests,
            )
            for name in self.names
        ]

    def workers(self) -> list[WorkerStatus]:
        return []

    @property
    def counts(self) -> Counts:
        return Counts()

    def readiness(self, model: str | None = None) -> Readiness:
        self.model(model)
        return self.state

    @property
    def active_requests(self) -> int:
        return self.running

    async def custody(self) -> list[dict[str, object]]:
        return [{"address": "decode-0:50052", "tickets": []}]
