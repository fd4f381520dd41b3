"""Serving requests, whatever dialect they came in: the story of one request from prompt to last token.

1. The prompt is rendered and tokenized, once; its grammar is compiled, every field checked, its full blocks hashed.
2. `Attempts` finds workers and hands on tokens in order. `Started` says that a worker has taken the request.
3. Tokens become text; stop strings cut it. The first token goes out alone and at once, later ones as they are there.
4. When a worker is lost, another attempt continues after the tokens so far: the client sees a pause.
5. `Finished` carries usage and the ledger. Closing the generator at any point aborts the work on every worker.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace

import grpc.aio

from engine.errors import DeadlineExceeded, InvalidRequest, Unavailable, UnknownModel, Unsupported
from engine.hashes import block_hashes
from frontend.api import Readiness, ServedModel, Vocabulary, WorkerStatus
from frontend.attempt import Attempts
from frontend.callers import Allowances
from frontend.forced import calls_grammar
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.leg_events import Row
from frontend.legs import Interrupted
from frontend.link import Link
from frontend.model import LoadedModel
from frontend.observer import Observer, Watched
from frontend.parsed import answer_of
from frontend.prompt import encode, rendered, tokens_of
from frontend.quarantine import Quarantine
from frontend.recorder import Recorder
from frontend.request import (
    Chat,
    Event,
    GenerateRequest,
    Started,
    check_token_ids,
    resolve,
)
from frontend.tally import Counts
from frontend.worker_status import worker_status
from protos import worker_pb2 as pb

log = logging.getLogger(__name__)


class FleetInference:
    """`frontend.api.Inference` over a fleet of workers."""

    def __init__(
        self,
        model: LoadedModel,
        attempts: Attempts,
        observer: Observer,
        *,
        max_attempts: int,
        max_worker_deaths: int = 3,
    ) -> None:
        self._model = model
        self._attempts = attempts
        self._fleet = attempts.fleet
        self._observer = observer
        self._max_attempts = max_attempts
        self._allowances = Allowances()
        self._quarantine = Quarantine(max_worker_deaths, self._fleet.died)
        self.draining = False
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # -- requests ----------------------------------------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        ledger = Ledger()
        with self._counted(), self._observer.watch(request, self._model.name, ledger) as watched:
            deadline = math.inf
            if request.deadline_s is not None:
                deadline = asyncio.get_running_loop().time() + request.deadline_s
            if self.draining:
                raise Unavailable("the server is draining")
            model = self._named(request.model)
            request.caller.check_model(model.name)
            ledger.checked_ns = time.monotonic_ns()
            tokens = await encode(
                model,
                request.prompt,
                self._max_context(model),
                add_special_tokens=request.add_special_tokens,
                truncate=request.truncate_prompt,
            )
            job = self._job(model, request, tokens, deadline, ledger, watched)
            job.grammar = await _grammar(model, request, tokens)
            self._quarantine.check(job)
            ledger.tokenized_ns = time.monotonic_ns()
            watched.tokenized(job)
            charged = self._allowances.charged
            with charged(job.caller, job.num_prompt, job.params.max_tokens, lambda: job.num_output) as left:
                async with aclosing(self._rows(job, watched)) as rows:
                    await _next(rows, deadline)
                    watched.taken(job)
                    told = tuple(tokens[: job.num_prompt]) if request.tell_prompt else ()
                    yield Started(job.request_id, model.name, job.num_prompt, job.params.seed, left, told)
                    answer = answer_of(model, request, job)
                    while answer.finished is None:
                        batch = await (anext(rows) if deadline == math.inf else _next(rows, deadline))
                        watched.took(batch)
                        delta = answer.push(batch)
                        if delta is not None:
                            ledger.handed_ns = time.monotonic_ns()
                            yield delta if answer.finished is None else delta._replace(is_last=True)
                            ledger.resumed_ns = time.monotonic_ns()
            watched.finished(answer.finished)
            yield answer.finished

    async def idle(self) -> None:
        """Return once no request is under way."""
        await self._idle.wait()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    def _job(
        self,
        model: LoadedModel,
        request: GenerateRequest,
        tokens: list[int],
        deadline: float,
        ledger: Ledger,
        watched: Watched,
    ) -> Job:
        limits = replace(model.limits, max_context=self._max_context(model))
        params = resolve(request, len(tokens), limits)
        job = Job(
            request_id=watched.request_id,
            model=model.name,
            tokens=tokens,
            num_prompt=len(tokens),
            params=params,
            caller=request.caller,
            hashes=[],
            traceparent=watched.traceparent,
            ledger=ledger,
            deadline=deadline,
            cache_salt=request.cache_salt,
            pooling=request.pooling,
        )
        if job.hash_root:
            job.hashes = block_hashes(tokens, self._block_tokens(), job.hash_root)
        return job

    async def _rows(self, job: Job, watched: Watched) -> AsyncGenerator[list[Row], None]:
        """Tokens over as many attempts as it takes. Raises Unavailable when too many in a row brought nothing, and
        Poisoned when workers keep dying of it."""
        try:
            while True:
                had = job.num_output
                try:
                    async with self._quarantine.watched(job) as watch, aclosing(self._attempts.run(job)) as rows:
                        async for batch in rows:
                            if not batch:
                                watched.placed(job)
                            if watch.suspect:
                                watch.note_tokens()
                            yield batch
                    return
                except Interrupted as error:
                    self._note_interrupted(job, watched, error, job.num_output - had)
        finally:
            self._attempts.let_go(job)

    def _note_interrupted(self, job: Job, watched: Watched, error: Interrupted, num_gained: int) -> None:
        """An attempt that brought so many tokens failed. Raises what `_rows` does if there shall be no other."""
        log.warning("attempt %d failed: %s", job.attempt, error.message)
        job.ledger.interrupted()
        watched.retried(job, error.message)
        job.failures = 0 if num_gained else job.failures + 1
        if error.died is not None:
            self._quarantine.strike(job, error.died, num_gained)
        if job.failures >= self._max_attempts:
            message = f"{job.failures} attempts failed, the last one because {error.message}"
            raise Unavailable(message) from error
        if self._quarantine.suspects(job):  # it may have to wait for its turn, and holds nothing meanwhile
            self._attempts.let_go(job)

    # -- everything else ---------------------------------------------------------------------------------------------

    def tokenize(self, model: str | None, text: str | Chat, *, add_special_tokens: bool | None = None) -> list[int]:
        return tokens_of(self._named(model), text, add_special_tokens=add_special_tokens)

    def render(self, model: str | None, chat: Chat) -> str:
        return rendered(self._named(model), chat)

    def detokenize(self, model: str | None, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        named = self._named(model)
        check_token_ids(tuple(token_ids), named.limits.vocab_size, "token_ids")
        return named.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, model: str | None, token_id: int) -> bytes:
        named = self._named(model)
        check_token_ids((token_id,), named.limits.vocab_size, "token_id")
        return named.tokenizer.token_bytes(token_id)

    def vocabulary(self, model: str | None) -> Vocabulary:
        return self._named(model).tokenizer

    def tokenizer_config(self, model: str | None) -> Mapping[str, object]:
        named = self._named(model)
        template = {} if named.template is None else {"chat_template": named.template.default}
        return {**named.tokenizer.config, **template}

    def models(self) -> list[ServedModel]:
        model = self.model(None)
        return [model, *(replace(model, name=alias) for alias in sorted(self._model.aliases))]

    def model(self, name: str | None) -> ServedModel:
        model = self._named(name)
        return ServedModel(
            name=model.name,
            created=model.created,
            max_context=self._max_context(model),
            vocab_size=model.limits.vocab_size,
            has_chat_template=model.template is not None,
            pooling=model.pooling,
            chat_template="" if model.template is None else model.template.default,
            template_variables=frozenset() if model.template is None else model.template.variables,
            bos_token=model.tokenizer.bos_token or "",
            eos_token=model.tokenizer.eos_token or "",
            calls_tools=model.families.tools is not None,
            reasons=model.families.reasoning is not None,
            spec=model.spec,
            size_bytes=model.size_bytes,
        )

    @property
    def recorder(self) -> Recorder:
        return self._observer.recorder

    def workers(self) -> list[WorkerStatus]:
        return [worker_status(role, link) for role, link in self._fleet.all_links]

    @property
    def counts(self) -> Counts:
        return self._fleet.counts

    def readiness(self) -> Readiness:
        if self.draining:
            return Readiness(False, "draining")
        for role, name in ((pb.ROLE_DECODE, "decode"), (pb.ROLE_PREFILL, "prefill")):
            if role == pb.ROLE_PREFILL and not self._fleet.has_prefill:
                continue
            views = [link.view for link in self._fleet.links(role) if link.view is not None]
            if not any(view.model == self._model.name and view.takes_requests for view in views):
                stalled = "; ".join(f"{view.worker_id}: {view.stalled}" for view in views if view.stalled)
                return Readiness(False, f"no {name} worker is ready" + (f" ({stalled})" if stalled else ""))
        return Readiness(True, "")

    async def custody(self) -> list[dict[str, object]]:
        return list(await asyncio.gather(*(_custody(link) for _, link in self._fleet.all_links)))

    @property
    def active_requests(self) -> int:
        return self._active

    @property
    def queued_requests(self) -> int:
        return self._attempts.admission.queued_requests

    @property
    def queued_tokens(self) -> int:
        return self._attempts.admission.queued_tokens

    @property
    def max_queued_requests(self) -> int:
        return self._attempts.admission.max_requests

    def _named(self, name: str | None) -> LoadedModel:
        if name and not self._model.is_called(name):
            raise UnknownModel(f"the model {name!r} is not served here; {self._model.name!r} is", field="model")
        return self._model

    def _max_context(self, model: LoadedModel) -> int:
        """The longest context that some decode worker holds; the model's own while there is none."""
        contexts = [link.hello.max_context for link in self._fleet.links(pb.ROLE_DECODE) if link.hello]
        return max(contexts, default=model.limits.max_context)

    def _block_tokens(self) -> int:
        """Of the fleet's workers; requests are hashed for the first, and workers of one fleet agree."""
        sizes = [link.hello.block_tokens for link in self._fleet.links(pb.ROLE_DECODE) if link.hello]
        return sizes[0] if sizes else 16


async def _grammar(model: LoadedModel, request: GenerateRequest, prompt: Sequence[int]) -> str:
    """What workers are told of the request's grammar; empty where it has none."""
    grammar = calls_grammar(model, request, prompt) or request.grammar
    if grammar is None:
        return ""
    is_demanded = isinstance(request.prompt, Chat) and bool(request.prompt.demanded)
    field = "tools" if is_demanded or request.grammar is None else "grammar"
    if model.grammars is None:
        raise Unsupported("this model's answers cannot be held to a grammar", field=field)
    try:
        return await model.grammars.compile(grammar)
    except InvalidRequest as error:
        error.field = field
        raise


async def _next(rows: AsyncGenerator[list[Row], None], deadline: float) -> list[Row]:
    """The next tokens. Raises DeadlineExceeded when the caller's deadline (of the event loop's clock) passes first."""
    try:
        async with asyncio.timeout_at(deadline if deadline < math.inf else None):
            return await anext(rows)
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed before the answer was complete") from None


async def _custody(link: Link) -> dict[str, object]:
    """One worker's report; of one that does not answer, its address and why."""
    if link.view is None:
        return {"address": link.address, "error": "not connected"}
    try:
        report = await link.custody()
    except grpc.aio.AioRpcError as error:
        return {"address": link.address, "error": error.details() or error.code().name}
    fields = {name.name: getattr(report, name.name) for name in report.DESCRIPTOR.fields if name.name != "holders"}
    holders = [
        {
            "request_id": holder.request_id,
            "leg": holder.leg,
            "attempt": holder.attempt,
            "session": holder.session,
            "state": holder.state,
            "reason": holder.reason,
            "blocks": list(holder.blocks),
            "age_s": holder.age_s,
            "lease_s": holder.lease_s,
        }
        for holder in report.holders
    ]
    return {"address": link.address, **fields, "holders": holders}
