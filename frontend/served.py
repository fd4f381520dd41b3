"""One model that a frontend serves, with everything that is its alone.

Those are its queue and its forecasts (`Attempts`), what each key has left of its limits there, and whom its workers
died of: what happens to one model is nothing to another, though they may share workers' machines, keys and a frontend.
From here on a request is a `Job` of this model.
"""

import logging
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace

from engine.errors import InvalidRequest, Unavailable, Unsupported
from engine.hashes import block_hashes
from frontend.api import ModelStatus, Readiness, ServedModel
from frontend.attempt import Attempts
from frontend.callers import Allowances
from frontend.checks import resolve
from frontend.forced import calls_grammar
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.leg_events import Row
from frontend.legs import Interrupted
from frontend.model import LoadedModel
from frontend.observer import Watched
from frontend.prompt import encode
from frontend.quarantine import Quarantine
from frontend.request import Chat, GenerateRequest
from frontend.scores import PromptScores
from frontend.worker_view import WorkerView
from protos import worker_pb2 as pb

log = logging.getLogger(__name__)


class Served:
    """Makes jobs of requests for one model, and has its workers do them."""

    def __init__(
        self, model: LoadedModel, attempts: Attempts, *, max_attempts: int, max_worker_deaths: int = 3
    ) -> None:
        """`attempts` are this model's alone; their fleet may be everybody's."""
        self.model = model
        self.attempts = attempts
        self.allowances = Allowances()
        self._fleet = attempts.fleet
        self._max_attempts = max_attempts
        self._quarantine = Quarantine(max_worker_deaths, self._fleet.died)

    @property
    def name(self) -> str:
        return self.model.name

    # -- requests ----------------------------------------------------------------------------------------------------

    async def job(self, request: GenerateRequest, deadline: float, ledger: Ledger, watched: Watched) -> Job:
        """Check everything there is to check, without workers. Raises InvalidRequest, Unsupported and Poisoned."""
        model, max_context = self.model, self.max_context()
        tokens = await encode(
            model,
            request.prompt,
            max_context,
            add_special_tokens=request.add_special_tokens,
            truncate=request.truncate_prompt,
        )
        job = Job(
            request_id=watched.request_id,
            model=model.name,
            tokens=tokens,
            num_prompt=len(tokens),
            params=resolve(request, len(tokens), replace(model.limits, max_context=max_context)),
            caller=request.caller,
            hashes=[],
            traceparent=watched.traceparent,
            ledger=ledger,
            deadline=deadline,
            cache_salt=request.cache_salt,
            pooling=request.pooling,
            prompt_logprobs=request.prompt_logprobs,
        )
        if request.prompt_logprobs is not None:
            job.scores = PromptScores(job.num_prompt, min(request.prompt_logprobs, model.limits.vocab_size))
        if job.hash_root:
            job.block_tokens = self._block_tokens()
            job.hashes = block_hashes(tokens, job.block_tokens, job.hash_root)
        job.grammar = await _grammar(model, request, tokens)
        self._quarantine.check(job)
        return job

    async def rows(self, job: Job, watched: Watched) -> AsyncGenerator[list[Row], None]:
        """Tokens over as many attempts as it takes. Raises Unavailable when too many in a row brought nothing, and
        Poisoned when workers keep dying of it."""
        try:
            while True:
                had = job.num_output
                try:
                    async with self._quarantine.watched(job) as watch, aclosing(self.attempts.run(job)) as rows:
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
            self.attempts.let_go(job)

    def _note_interrupted(self, job: Job, watched: Watched, error: Interrupted, num_gained: int) -> None:
        """An attempt that brought so many tokens failed. Raises what `rows` does if there shall be no other."""
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
            self.attempts.let_go(job)

    # -- what can be told of it --------------------------------------------------------------------------------------

    def described(self) -> ServedModel:
        model = self.model
        return ServedModel(
            name=model.name,
            created=model.created,
            max_context=self.max_context(),
            vocab_size=model.limits.vocab_size,
            has_chat_template=model.template is not None,
            pooling=model.pooling,
            chat_template="" if model.template is None else model.template.default,
            template_variables=frozenset() if model.template is None else model.template.variables,
            bos_token=model.tokenizer.bos_token or "",
            eos_token=model.tokenizer.eos_token or "",
            calls_tools=model.families.tools is not None,
            reasons=model.families.reasoning is not None,
            infills=model.infills,
            spec=model.spec,
            size_bytes=model.size_bytes,
        )

    @property
    def takes_requests(self) -> bool:
        """Whether a decode worker of it does: with one, prompts are computed somewhere."""
        return any(view.takes_requests for view in self._views(pb.ROLE_DECODE))

    def readiness(self, others: Collection[str]) -> Readiness:
        """Whether every role that it should have is there. `others` are served beside it."""
        roles = [(pb.ROLE_DECODE, "decode")]
        if self._fleet.expects_prefill(others):
            roles.append((pb.ROLE_PREFILL, "prefill"))
        for role, name in roles:
            views = self._views(role)
            if not any(view.takes_requests and not view.unready for view in views):
                reasons = "; ".join(f"{view.worker_id}: {view.hindered}" for view in views if view.hindered)
                return Readiness(False, f"no {name} worker is ready" + (f" ({reasons})" if reasons else ""))
        return Readiness(True, "")

    def status(self, others: Collection[str]) -> ModelStatus:
        readiness = self.readiness(others)
        return ModelStatus(
            name=self.name,
            aliases=sorted(self.model.aliases),
            fallback=self.model.fallback,
            ready=readiness.ready,
            reason=readiness.reason,
            queued_requests=self.attempts.admission.queued_requests,
            max_queued_requests=self.attempts.admission.max_requests,
        )

    def max_context(self) -> int:
        """The longest context that some decode worker holds; the model's own while there is none."""
        return max((view.max_context for view in self._views(pb.ROLE_DECODE)), default=self.model.limits.max_context)

    def _block_tokens(self) -> int:
        """Of the model's workers; requests are hashed for the first, and again for one that has others."""
        views = self._views(pb.ROLE_DECODE)
        return views[0].block_tokens if views else 16

    def _views(self, role: "pb.Role") -> list[WorkerView]:
        """Its workers of this role that are there."""
        views = (link.view for link in self._fleet.links(role))
        return [view for view in views if view is not None and view.model == self.name]


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
