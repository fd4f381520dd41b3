"""Serving requests, whatever dialect they came in: the story of one request from prompt to last token.

1. The model that it names makes a job of it (`frontend.served`): the prompt is rendered and tokenized, once; its
   grammar is compiled, every field checked, its full blocks hashed.
2. `Attempts` finds workers and hands on tokens in order. `Started` says that a worker has taken the request.
3. Tokens become text; stop strings cut it. The first token goes out alone and at once, later ones as they are there.
4. When a worker is lost, another attempt continues after the tokens so far: the client sees a pause.
5. `Finished` carries usage and the ledger. Closing the generator at any point aborts the work on every worker.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace

import grpc.aio

from engine.errors import DeadlineExceeded, InvalidRequest, Unavailable, Unsupported
from frontend.accounts import Accounts
from frontend.api import ModelStatus, Readiness, ServedModel, Vocabulary, WorkerStatus
from frontend.callers import ANYBODY, Caller
from frontend.catalogue import Catalogue
from frontend.checks import check_token_ids
from frontend.cut import Cut
from frontend.events import Event, Started
from frontend.fleet import Fleet
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.leg_events import Row
from frontend.link import Link
from frontend.observer import Observer, Watched
from frontend.parsed import answer_of
from frontend.prompt import rendered, tokens_of
from frontend.recorder import Recorder
from frontend.request import Chat, GenerateRequest
from frontend.served import Served
from frontend.tally import Counts
from frontend.worker_status import worker_status


class FleetInference:
    """`frontend.api.Inference` over a fleet of workers, of one model or several."""

    def __init__(self, catalogue: Catalogue, fleet: Fleet, observer: Observer) -> None:
        self._catalogue = catalogue
        self._fleet = fleet
        self._observer = observer
        self.draining = False
        self.unready = ""
        """Why it should get no requests, whatever its workers say; those that come are served all the same."""
        self._cut = Cut()
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # -- requests ----------------------------------------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        ledger, catalogue = Ledger(), self._catalogue
        asked = catalogue.find(request.model) or catalogue.default
        with self._counted(), self._observer.watch(request, asked.name, ledger) as watched:
            deadline = math.inf
            if request.deadline_s is not None:
                deadline = asyncio.get_running_loop().time() + request.deadline_s
            if self.draining:
                raise Unavailable("the server is draining")
            catalogue.named(request.model)
            request.caller.check_model(asked.name)
            ledger.checked_ns = time.monotonic_ns()
            job = await self._job(asked, request, deadline, ledger, watched)
            served = catalogue.named(job.model)
            ledger.tokenized_ns = time.monotonic_ns()
            watched.tokenized(job)
            charged = served.allowances.charged
            with charged(job.caller, job.num_prompt, job.params.max_tokens, lambda: job.num_output) as left:
                async with aclosing(served.rows(job, watched)) as rows:
                    with self._cut:
                        await _next(rows, deadline)
                    watched.taken(job)
                    told = tuple(job.tokens[: job.num_prompt]) if request.tell_prompt else ()
                    yield Started(job.request_id, job.model, job.num_prompt, job.params.seed, left, told)
                    answer = answer_of(served.model, request, job)
                    while answer.finished is None:
                        with self._cut:
                            batch = await (anext(rows) if deadline == math.inf else _next(rows, deadline))
                        watched.took(batch)
                        if batch and job.scores is not None:
                            yield await job.scores.told(job.tokens[: job.num_prompt], served.model.tokenizer)
                            job.scores = None
                        delta = answer.push(batch)
                        if delta is not None:
                            ledger.handed_ns = time.monotonic_ns()
                            yield delta if answer.finished is None else delta._replace(is_last=True)
                            ledger.resumed_ns = time.monotonic_ns()
            watched.finished(answer.finished)
            yield answer.finished

    async def _job(
        self, asked: Served, request: GenerateRequest, deadline: float, ledger: Ledger, watched: Watched
    ) -> Job:
        """Of the model that is asked, or of one that answers for it. A fallback that cannot take the request, whose
        context is too short or which knows no tools, is passed over."""
        for other in self._catalogue.standing_in(asked, request):
            try:
                return await other.job(request, deadline, ledger, watched)
            except (InvalidRequest, Unsupported):
                continue
        return await asked.job(request, deadline, ledger, watched)

    async def idle(self) -> None:
        """Return once no request is under way."""
        await self._idle.wait()

    def cut(self) -> None:
        """Requests that are under way fail now, as do those that come: their clients are told why by Unavailable."""
        self._cut.make()

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

    # -- everything else ---------------------------------------------------------------------------------------------

    def tokenize(self, model: str | None, text: str | Chat, *, add_special_tokens: bool | None = None) -> list[int]:
        return tokens_of(self._catalogue.named(model).model, text, add_special_tokens=add_special_tokens)

    def render(self, model: str | None, chat: Chat) -> str:
        return rendered(self._catalogue.named(model).model, chat)

    def detokenize(self, model: str | None, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        named = self._catalogue.named(model).model
        check_token_ids(tuple(token_ids), named.limits.vocab_size, "token_ids")
        return named.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, model: str | None, token_id: int) -> bytes:
        named = self._catalogue.named(model).model
        check_token_ids((token_id,), named.limits.vocab_size, "token_id")
        return named.tokenizer.token_bytes(token_id)

    def vocabulary(self, model: str | None) -> Vocabulary:
        return self._catalogue.named(model).model.tokenizer

    def tokenizer_config(self, model: str | None) -> Mapping[str, object]:
        named = self._catalogue.named(model).model
        template = {} if named.template is None else {"chat_template": named.template.default}
        return {**named.tokenizer.config, **template}

    def models(self, caller: Caller = ANYBODY) -> list[ServedModel]:
        models = []
        for served in self._catalogue:
            if not caller.may_ask(served.name):
                continue
            described = served.described()
            models.append(described)
            models += [replace(described, name=alias) for alias in sorted(served.model.aliases)]
        return models

    def model(self, name: str | None, caller: Caller = ANYBODY) -> ServedModel:
        served = self._catalogue.named(name)
        caller.check_model(served.name)
        return served.described()

    def statuses(self) -> list[ModelStatus]:
        statuses = [served.status(self._catalogue.beside(served)) for served in self._catalogue]
        reason = "draining" if self.draining else self.unready
        return [replace(each, ready=False, reason=reason) for each in statuses] if reason else statuses

    @property
    def recorder(self) -> Recorder:
        return self._observer.recorder

    @property
    def accounts(self) -> Accounts:
        return self._observer.accounts

    def workers(self) -> list[WorkerStatus]:
        names = {served.name for served in self._catalogue}
        return [worker_status(role, link, names) for role, link in self._fleet.all_links]

    @property
    def counts(self) -> Counts:
        return self._fleet.counts

    def readiness(self, model: str | None = None) -> Readiness:
        if self.draining:
            return Readiness(False, "draining")
        if self.unready:
            return Readiness(False, self.unready)
        served = self._catalogue.named(model)
        return served.readiness(self._catalogue.beside(served))

    async def custody(self) -> list[dict[str, object]]:
        return list(await asyncio.gather(*(_custody(link) for _, link in self._fleet.all_links)))

    @property
    def active_requests(self) -> int:
        return self._active

    @property
    def queued_requests(self) -> int:
        return sum(served.attempts.admission.queued_requests for served in self._catalogue)

    @property
    def queued_tokens(self) -> int:
        return sum(served.attempts.admission.queued_tokens for served in self._catalogue)

    @property
    def max_queued_requests(self) -> int:
        return sum(served.attempts.admission.max_requests for served in self._catalogue)


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
