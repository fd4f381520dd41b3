"""What whoever runs the server looks at: the state of everything now, and what became of requests.

JSON for `tandem top`, `tandem explain`, the console and whoever else draws it. All of it is behind the keys: workers
and means are everybody's to see, a request is its own key's and the operator's (`Caller.is_operator`).
"""

import time
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.errors import InvalidRequest, UnknownRequest
from engine.version import VERSION
from frontend.api import Inference, WorkerStatus, pool_share
from frontend.balance import Balance, balance, recent
from frontend.history import LINKS_OVER_S, NUM_PERIODS, PERIOD_S, TPOT_LIMITS_S, TTFT_LIMITS_S
from frontend.records import RequestRecord
from frontend.rest.describe import content, json, operation
from frontend.rest.dialect import Json
from frontend.rest.middleware import CALLER
from frontend.status import RequestList, ServerHistory, ServerStatus

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
IN_STATUS = 10
"""Of the slowest requests and of the router's decisions, each."""


SCHEMAS = (Balance, RequestList, RequestRecord, ServerHistory, ServerStatus)


class DebugPages:
    """Read with GET."""

    def __init__(self, inference: Inference, trace_ui: str = "") -> None:
        self._inference = inference
        self._trace_ui = trace_ui

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/debug/custody", self.custody),
            Route("/debug/status", self.status),
            Route("/debug/history", self.history),
            Route("/debug/balance", self.balance),
            Route("/debug/requests", self.requests),
            Route("/debug/requests/{request_id}", self.request),
        ]

    async def custody(self, request: Request) -> Response:
        return _json(await self._inference.custody())

    async def status(self, request: Request) -> Response:
        inference, recorder = self._inference, self._inference.recorder
        caller, readiness, workers = request.scope[CALLER], inference.readiness(), inference.workers()
        of_role: dict[str, list[WorkerStatus]] = {}
        for worker in workers:
            of_role.setdefault(worker.role, []).append(worker)
        # As ServerStatus has it; but records are JSON already.
        fields = {
            "version": VERSION,
            "models": [model.name for model in inference.models()],
            "served": inference.statuses(),
            "at_s": round(time.time(), 3),
            "up_s": round(recorder.now() - recorder.began_s, 1),
            "ready": readiness.ready,
            "reason": readiness.reason,
            "in_flight": recorder.in_flight,
            "queued_requests": inference.queued_requests,
            "max_queued_requests": inference.max_queued_requests,
            "last_minute": recorder.minute.summary(),
            "workers": workers,
            "pool_share": {role: pool_share(those) for role, those in of_role.items()},
            "slowest": recorder.slowest(caller, IN_STATUS),
            "decisions": recorder.decisions(caller, IN_STATUS),
            "trace_ui": self._trace_ui,
        }
        return _json(fields)

    async def history(self, request: Request) -> Response:
        history = self._inference.recorder.history
        told = ServerHistory(
            at_s=round(time.time(), 3),
            period_s=PERIOD_S,
            num_periods=NUM_PERIODS,
            ttft_limits_s=list(TTFT_LIMITS_S),
            tpot_limits_s=list(TPOT_LIMITS_S),
            periods=history.periods(),
            links_over_s=LINKS_OVER_S,
            links=history.links(),
        )
        return _json(told)

    async def balance(self, request: Request) -> Response:
        periods = recent(self._inference.recorder.history.periods(), time.time())
        return _json(balance(periods, self._inference.workers()))

    async def requests(self, request: Request) -> Response:
        recorder = self._inference.recorder
        lists = {"recent": recorder.recent, "slowest": recorder.slowest, "failed": recorder.failed}
        name = request.query_params.get("list", "recent")
        if name not in lists:
            raise InvalidRequest(f"list must be one of {', '.join(lists)}", field="list")
        limit = _limit(request.query_params.get("limit"))
        return _json({"list": name, "requests": lists[name](request.scope[CALLER], limit)})

    async def request(self, request: Request) -> Response:
        request_id = request.path_params["request_id"]
        found = self._inference.recorder.find(request.scope[CALLER], request_id)
        if found is None:
            raise UnknownRequest(f"no request {request_id[:80]!r} has ended of which a record is still kept")
        return _json(found)


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_LIMIT
    if not (given.isdecimal() and 1 <= int(given[:9]) <= MAX_LIMIT):
        raise InvalidRequest(f"limit must be between 1 and {MAX_LIMIT}", field="limit")
    return int(given)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def operations(error: str) -> Json:
    """The paths, as OpenAPI has them; `error` names the schema of errors."""

    def get(summary: str, answer: Json, *statuses: int, missing: str = "", parameters: Sequence[Json] = ()) -> Json:
        described = operation(summary, answer, *statuses, error=error, missing=missing)
        return {"get": {"parameters": list(parameters), **described} if parameters else described}

    limit: Json = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}
    lists: Json = {"type": "string", "enum": ["recent", "slowest", "failed"]}
    which = (
        _parameter("list", "query", lists, "Default: recent."),
        _parameter("limit", "query", limit, f"Default: {DEFAULT_LIMIT}."),
    )
    request_id = _parameter("request_id", "path", {"type": "string"}, "As an answer or x-request-id tells it.")
    return {
        "/debug/custody": get(
            "Who holds which KV blocks, on every worker",
            content("application/json", {"type": "array", "items": {"type": "object"}}),
            401,
        ),
        "/debug/status": get("Workers, queues, the last minute, the slowest requests", json("ServerStatus"), 401),
        "/debug/history": get("The last half hour in periods", json("ServerHistory"), 401),
        "/debug/balance": get("Which side binds, prefill or decode", json("Balance"), 401),
        "/debug/requests": get(
            "Requests that have ended, and where their time went", json("RequestList"), 400, 401, parameters=which
        ),
        "/debug/requests/{request_id}": get(
            "One of them",
            json("RequestRecord"),
            401,
            missing="No such record is kept, or it is not for this key.",
            parameters=[request_id],
        ),
    }


def _parameter(name: str, place: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": place, "required": place == "path", "description": description, "schema": schema}
